"""`longtask run` and `longtask tail`: ask, and watch the answer stream."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from longtask_kit.cli.console import (
    INTERRUPTED,
    ApiOption,
    JsonOption,
    MaxTokensOption,
    MetadataOption,
    TaskArgument,
    TemperatureOption,
    connect_quietly,
    leave,
)
from longtask_kit.client.options import read_spec
from longtask_kit.client.terminal import print_json_events, print_stream
from longtask_kit.errors import ConfigError, SubmitError, add_cure

if TYPE_CHECKING:
    from longtask_kit.client.task import Task


def run(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask the model; - reads standard input.")
    ] = None,
    *,
    model: Annotated[
        str | None, typer.Option(help="Model name; default LONGTASK_MODEL, or your key's.")
    ] = None,
    max_tokens: MaxTokensOption = "1000",
    temperature: TemperatureOption = "0.7",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A further model parameter; may be repeated."),
    ] = None,
    metadata: MetadataOption = None,
    api: ApiOption = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Show the model an image, too.")
    ] = None,
    messages: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A conversation, JSON, to go on from.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON schema that the answer must obey.")
    ] = None,
    handler: Annotated[str, typer.Option(help="Name of the server-side handler.")] = "openai",
    retries: Annotated[
        int | None, typer.Option(help="Deliveries after the first that fails.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until it ends as failed.")] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record the answer into this cassette.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer from this cassette; asks nobody.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print its id and leave.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a task and stream it; it runs on when you leave."""
    if no_wait and record is not None:
        raise ConfigError("--record waits for the answer: leave out --no-wait.")
    # Before anything is started: a wrong value needs no service to be told.
    spec = read_spec(
        prompt=_read_input() if prompt == "-" else prompt,
        images=image or [],
        messages=messages,
        schema=schema,
        params=param or [],
        metadata=metadata or [],
        api=api,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        system=system,
        handler=handler,
        retries=retries,
        timeout=timeout,
    )
    from longtask_kit.client.task import submit_spec

    named = model if handler == "openai" else None  # to another it means what it likes
    with contextlib.ExitStack() as stack:
        kit = connect_quietly(say_where=not as_json, asks=True, model=named, replay=replay)
        stack.enter_context(kit)
        if record is not None:
            stack.enter_context(kit.record(record))
        task = submit_spec(kit._door, spec)
        if no_wait:
            sys.stdout.write(f"{json.dumps({'taskId': task.id}) if as_json else task.id}\n")
        else:
            _show(task, as_json=as_json)


def _read_input() -> str:
    try:
        text = sys.stdin.read()
        text.encode()  # in the C locale each byte that is no text is half a surrogate pair
    except (UnicodeDecodeError, UnicodeEncodeError) as exc:
        place = "byte" if isinstance(exc, UnicodeDecodeError) else "character"
        raise SubmitError(
            f"Standard input is not {sys.stdin.encoding} ({exc.reason} at {place} {exc.start}): "
            "convert it, or name its encoding in PYTHONIOENCODING."
        ) from exc
    return text.removeprefix("\ufeff")  # a mark, as files may have it, is no part of a prompt


def tail(task_id: TaskArgument, *, as_json: JsonOption = False) -> None:
    """Follow a task from its first token on, whether it runs or ended long ago."""
    with connect_quietly(say_where=not as_json) as kit:
        _show(kit.attach(task_id), as_json=as_json)


def _show(task: Task, *, as_json: bool) -> None:
    """Stream a task; exit code 0 when it completed, 1 when not, 130 when the reader left."""
    try:
        if as_json:
            print_json_events(task)
            state = task.snapshot()
        else:
            state = print_stream(task)
    except KeyboardInterrupt:
        leave(
            f"\n{task.id} goes on.",
            f"Come back: longtask tail {task.id}",
            f"End it:    longtask cancel {task.id}",
            code=INTERRUPTED,
        )
    if state.status != "completed":
        reason = f": {state.error}" if state.error else ""
        if state.status == "failed":
            reason = f": {add_cure(state.error, state.code)}"
        leave(f"{task.id} {state.status}{reason}", code=1)
