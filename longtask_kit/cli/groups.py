"""`longtask map` and `longtask groups`: a file of rows, asked once; the groups there are."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from longtask_kit.cli.console import (
    INTERRUPTED,
    ApiOption,
    JsonOption,
    MaxTokensOption,
    MetadataOption,
    OwnConsole,
    TemperatureOption,
    ToldStream,
    connect_quietly,
    leave,
    tell,
)
from longtask_kit.cli.rows_file import check_out, read_rows_file, write_rows_file
from longtask_kit.cli.table import print_table
from longtask_kit.client.frame import list_json_rows, make_columns
from longtask_kit.client.listed import describe_age
from longtask_kit.client.options import read_spec
from longtask_kit.client.prices import read_price
from longtask_kit.client.rows import read_rows
from longtask_kit.client.terminal import print_json_line
from longtask_kit.errors import ConfigError
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.group_display import read_facts

if TYPE_CHECKING:
    from longtask_kit.client.group import TaskGroup

_NAME_CHARS = 200
_ASKED_WITH = (
    *("model", "max_tokens", "temperature", "system", "params", "metadata", "api", "handler"),
    *("retries", "timeout_s"),
)
_STAGES = ("done", "running", "waiting", "failed")
_WIDTH = 24  # of the bar
_NAME_CELLS = 20  # of a list of groups, where room is short; a longer name has its own line


def map_rows(
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="A .jsonl, .csv, .txt or .parquet file.")
    ],
    *,
    template: Annotated[
        str | None,
        typer.Option(help="Text with the row's {field}s, {} where a row is text."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .jsonl or .csv; else standard output.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the group; default the file that is written.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name; default LONGTASK_MODEL.")] = None,
    max_tokens: MaxTokensOption = "1000",
    temperature: TemperatureOption = "0.7",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A further model parameter; may be repeated."),
    ] = None,
    metadata: MetadataOption = None,
    api: ApiOption = None,
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON schema that answers must obey.")
    ] = None,
    handler: Annotated[str, typer.Option(help="Name of the server-side handler.")] = "openai",
    retries: Annotated[
        int | None, typer.Option(help="Deliveries after the first that fails.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until a row has failed.")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests a minute to the model.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens a minute.")] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="What all rows may spend, in tokens; the rest waits.")
    ] = None,
    budget_cost: Annotated[
        float | None, typer.Option(help="The same in money, by --price.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="Of a million tokens: sent, received.")
    ] = None,
    parallelism: Annotated[
        int, typer.Option(min=1, max=1000, help="How many rows run at once.")
    ] = 16,
    n: Annotated[int, typer.Option("-n", min=1, max=100, help="Answers wanted of each row.")] = 1,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave empty rows out.")] = False,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Ask all anew.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Queue all and leave.")] = False,
) -> None:
    """Ask for every row of a file; typed again, it goes on, and asks nothing twice."""
    # Before anything is started: a wrong value needs no service to be told.
    if out is not None:
        check_out(out)
    spec = read_spec(
        prompt="…",
        schema=schema,
        params=param or [],
        metadata=metadata or [],
        max_tokens=max_tokens,
        temperature=temperature,
        timeout=timeout,
        model=model,
        system=system,
        api=api,
        handler=handler,
        retries=retries,
    )
    options = {name: getattr(spec, name) for name in _ASKED_WITH}
    prices = read_limits(budget_tokens, budget_cost, price)
    given = read_rows_file(rows)
    read_rows(given, template, skip_empty=skip_empty, **options)
    named = model if handler == "openai" else None  # to another it means what it likes
    with connect_quietly(say_where=True, asks=True, model=named) as kit:
        with contextlib.redirect_stdout(ToldStream()):  # standard output is the answers alone
            group = kit.map(
                given,
                template,
                name=name or str((out or rows).resolve())[-_NAME_CHARS:],
                n=n,
                reuse=not no_reuse,
                skip_empty=skip_empty,
                parallelism=parallelism,
                rpm=rpm,
                tpm=tpm,
                budget_tokens=budget_tokens,
                budget_cost=budget_cost,
                prices=prices,
                **options,
            )
        if no_wait:
            sys.stdout.write(f"{group.id}\n")
            return
        _follow(group)
        _write(group, out)


def read_limits(
    budget_tokens: int | None, budget_cost: float | None, price: str | None
) -> tuple[float, float] | None:
    """Return the price, where the budgets go with it; a wrong one is told by its option."""
    if budget_tokens is not None and budget_cost is not None:
        raise ConfigError("--budget-tokens and --budget-cost are both given: expected one of them.")
    if budget_cost is not None and not 0 < budget_cost < math.inf:
        raise ConfigError(f"--budget-cost is {budget_cost:g}: expected a number above 0.")
    if budget_cost is not None and price is None:
        raise ConfigError("--budget-cost needs --price IN,OUT, of a million tokens.")
    if price is None:
        return None
    try:
        return read_price(price.split(","))
    except ValueError as exc:
        raise ConfigError(
            f"--price is {price!r:.40}: expected what a million tokens cost, sent and received, "
            "like 0.15,0.60."
        ) from exc


def list_groups(
    *,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List groups, those that ran last first."""
    with connect_quietly() as kit:
        listed = [_list_group(group) for group in kit.groups(limit=limit)]
    if as_json:
        for wire in listed:
            print_json_line(wire)
        return
    console = OwnConsole(highlight=False)
    if not listed:
        console.print(Text("no groups yet", style="dim"))
        return
    stages = [stage for stage in _STAGES if any(wire["counts"][stage] for wire in listed)]
    rows = [
        (
            make_printable(wire["name"]) or "-",
            *(_count(n) for n in (wire["rows"], *(wire["counts"][stage] for stage in stages))),
            wire["groupId"],
            wire["age"],
        )
        for wire in listed
    ]
    print_table(console, ("name", "rows", *stages, "group", "age"), rows, caps=(_NAME_CELLS,))


def _count(count: int) -> str:
    return f"{count:,}" if count else ""


def _list_group(group: TaskGroup) -> dict[str, Any]:
    counts = group.counts
    return {
        "groupId": group.id,
        "name": group.name,
        "rows": len(group),
        "counts": {stage: counts[stage] for stage in _STAGES},
        "age": describe_age((datetime.now(UTC) - group._record.updated).total_seconds()),
    }


def _follow(group: TaskGroup) -> None:
    """Wait for the end; on a terminal with a line that says how far it is."""
    console = OwnConsole(stderr=True, highlight=False)
    line = _ProgressLine(group)
    try:
        if console.is_terminal:
            with Live(line, console=console, refresh_per_second=4, transient=True):
                group.results(errors="return")
        else:
            group.results(errors="return")
    except KeyboardInterrupt:
        leave(
            f"\n{group.id} goes on. Type the same again to wait on, or to run it again.",
            f'In a notebook: kit.attach_group("{group.id}")',
            code=INTERRUPTED,
        )
    tell(line.describe().plain, err=True)


class _ProgressLine:
    """A bar, and the figures of a group."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._began = time.monotonic()

    def __rich__(self) -> Text:
        counts = self._group._count_stages()
        rows = max(1, sum(counts.values()))
        cells = [
            ("━" * (_WIDTH * (counts["done"] + counts["skipped"]) // rows), "green"),
            ("━" * (_WIDTH * counts["failed"] // rows), "red"),
        ]
        missing = _WIDTH - sum(len(cell) for cell, _ in cells)
        bar = Text.assemble(*cells, ("━" * missing, "dim"))
        line = Text.assemble(bar, " ", self.describe())
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def describe(self) -> Text:
        """Return the figures, and how long it has taken."""
        facts = read_facts(self._group)
        figures = facts.list_figures(is_live=True)
        parts = [f"{before}{value}{after}" for before, value, after in figures]
        parts += [facts.stop] if facts.stop else []
        return Text(" · ".join([*parts, f"{time.monotonic() - self._began:.1f} s"]))


def _write(group: TaskGroup, out: Path | None) -> None:
    """Write the answers; exit code 1 where a row has none."""
    group._read_texts()
    columns = make_columns(group.rows, group._list_answers(), samples=group._samples)
    if out is None:
        for row in list_json_rows(columns):
            print_json_line(row)
    else:
        write_rows_file(out, columns)
        tell(f"written: {out}", err=True)
    if parked := len(group._find_parked()):
        rows = "1 row waits" if parked == 1 else f"{parked:,} rows wait"
        leave(f"{rows}: the budget is spent; type the same with a higher one to go on.", code=1)
    failed = group._count_stages()["failed"]
    if failed:
        rows = "1 row has" if failed == 1 else f"{failed:,} rows have"
        leave(f"{rows} failed; type the same again to run them again.", code=1)
