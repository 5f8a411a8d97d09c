"""`longtask up` and `longtask down`: the local stack, in the foreground, and its end."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from longtask_kit.cli.console import JsonOption, tell

_DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the stack's data; one stack a folder.")
]


def up(
    *,
    data: _DataOption = None,
    as_json: JsonOption = False,
    time_scale: Annotated[float, typer.Option(help="Multiplies the retry backoff.")] = 1.0,
    tokens_per_s: Annotated[float, typer.Option(help="Speed of the demo model.")] = 60.0,
    redis_port: Annotated[int, typer.Option(help="Redis REST; 0 is any free port.")] = 8079,
    qstash_port: Annotated[int, typer.Option(help="The queue.")] = 8080,
    app_port: Annotated[int, typer.Option(help="The webhook app.")] = 8000,
    model_port: Annotated[int, typer.Option(help="The demo model.")] = 8081,
    redis_url: Annotated[
        str | None, typer.Option(help="A Redis, Valkey or cluster instead of the embedded one.")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let the queue deliver beyond this machine.")
    ] = False,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(metavar="FROM=TO", help="Deliver to TO what is for FROM; may be repeated."),
    ] = None,
    dev_keys: Annotated[
        bool, typer.Option("--dev-keys", help="The public keys of QStash's development server.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option(metavar="free|payg", help="Refuse what this plan of QStash refuses."),
    ] = None,
    dedup_window: Annotated[
        float, typer.Option(help="Seconds for which a deduplication id counts.")
    ] = 600.0,
) -> None:
    """Run the local stack in the foreground; every notebook joins it. Ctrl-C ends it."""
    from longtask_kit.local.config import StackConfig
    from longtask_kit.local.files import default_data_dir
    from longtask_kit.local.process import run_in_foreground

    config = StackConfig(
        data_dir=data or default_data_dir(),
        redis_port=redis_port,
        qstash_port=qstash_port,
        app_port=app_port,
        model_port=model_port,
        time_scale=time_scale,
        tokens_per_s=tokens_per_s,
        idle_exit_s=None,
        allow_remote=allow_remote,
        redis_url=redis_url,
        rewrites=rewrite or (),
        dev_keys=dev_keys,
        plan=plan,
        dedup_window_s=dedup_window,
    )
    run_in_foreground(config, _announce_json if as_json else _announce_exports)


def _announce_json(environment: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(environment) + "\n")
    sys.stdout.flush()


def _announce_exports(environment: dict[str, str]) -> None:
    from longtask_kit.settings import DEMO_LABEL

    for name, value in environment.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    sys.stdout.flush()
    tell(
        "\nThe local stack is up. Paste the lines above into another shell, or just use "
        "longtask and notebooks: they join it.\n"
        f"Webhook app: {environment['LONGTASK_BASE_URL']}/docs   Ctrl-C ends it.\n"
        f"{DEMO_LABEL}",
        err=True,
    )


def down(*, data: _DataOption = None) -> None:
    """End the local stack; its data stay, and the next command that needs it starts it again."""
    from longtask_kit.local.stack import LocalStack

    stack = LocalStack.find(data)
    if stack is None:
        sys.stdout.write("no local stack runs\n")
        return
    stack.stop()
    sys.stdout.write("the local stack has ended; its data stay\n")
