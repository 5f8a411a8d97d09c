"""`longtask keys`: for which hosts the local stack keeps a model key; never the key itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import JsonOption, OwnConsole, tell
from longtask_kit.errors import ConfigError
from longtask_kit.log.text import make_printable

keys_app = typer.Typer(
    help="List and forget the model keys that connect() gave to the local stack.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the stack's data.")]


@keys_app.callback()
def list_keys(
    context: typer.Context, *, data: _DataOption = None, as_json: JsonOption = False
) -> None:
    """List the hosts that a key is kept for, last used first."""
    if context.invoked_subcommand is not None:
        return
    from longtask_kit.local.endpoints import UNUSED_DAYS, EndpointFiles
    from longtask_kit.local.files import default_data_dir

    kept = EndpointFiles(data or default_data_dir()).list()
    if as_json:
        for key in kept:
            row = {"host": key.host, "lastUsed": key.last_used.isoformat(timespec="seconds")}
            sys.stdout.write(json.dumps(row) + "\n")
        return
    if not kept:
        sys.stdout.write("no key is kept; connect() gives one, where OPENAI_API_KEY is set\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model service", overflow="fold")
    table.add_column("last used", no_wrap=True)
    for key in kept:
        last_used = key.last_used.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(Text(make_printable(key.host)), last_used)
    OwnConsole().print(table)
    tell(f"\nunused for {UNUSED_DAYS} days, a key is forgotten; now: longtask keys forget HOST")


@keys_app.command()
def forget(
    host: Annotated[str | None, typer.Argument(help="As `longtask keys` shows it.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Forget every key.")] = False,
    data: _DataOption = None,
) -> None:
    """Forget the keys of a host, or all; what waits for one of them fails and says so."""
    from longtask_kit.local.endpoints import EndpointFiles
    from longtask_kit.local.files import default_data_dir

    if (host is None) == (not every):
        raise ConfigError("Say which: longtask keys forget HOST, or longtask keys forget --all.")
    files = EndpointFiles(data or default_data_dir())
    count = files.forget(host)
    if host is not None and not count:
        known = ", ".join(sorted({key.host for key in files.list()})) or "none"
        raise ConfigError(f"No key is kept for {host!r}; there are keys for: {known}.")
    sys.stdout.write(f"forgotten: {count} key{'' if count == 1 else 's'}\n")
