"""`python -m tests.benchmarks`: measure on this machine, on loopback, and print tables.

An aim that is missed is marked and changes no exit code, since the machine may be busy: the last
line says how much. A wrong text does end the command with an error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import CpuMeter, Machine, Row

# longtask_kit is imported by what the command calls, after LONGTASK_HOME is set.
_UNITS = {"s": ".3f", "ms": ".2f", "x": ".2f"}
_RATES = [50, 500, 0]
_TASKS = [1, 10, 50, 100]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This benchmark; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Times each is measured.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Of each run of side-by-side and far-redis.")
    ] = 3.0,
    tasks: Annotated[
        list[int] | None,
        typer.Option(min=1, help="At once in side-by-side, with every --rate; may be repeated."),
    ] = None,
    rate: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Tokens a second of each, 0 is unlimited; may be repeated."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One run, as short as possible.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, no table.")] = False,
) -> None:
    """Measure longtask_kit on a stack of its own and print min, median, max and the aims."""
    if tasks or rate:
        tasks, rate = tasks or _TASKS, rate or _RATES
    meter = CpuMeter()
    with tempfile.TemporaryDirectory(prefix="longtask-bench-") as home:
        os.environ["LONGTASK_HOME"] = home
        rows, skipped = _measure(
            only, runs=runs, is_quick=quick, seconds=seconds, tasks=tasks or (), rates=rate or ()
        )
    machine = meter.read()  # all stacks have ended, so their CPU time counts as ours
    if as_json:
        wire = {"machine": asdict(machine), "rows": [row.to_wire() for row in rows]}
        print(json.dumps(wire | {"skipped": skipped}, indent=2))
    else:
        _print_tables(rows, skipped, machine)


def _measure(only: list[str] | None, **options: Any) -> tuple[list[Row], list[str]]:  # noqa: ANN401
    """Return the rows, and what was skipped and why."""
    from tests.benchmarks.cases import BENCHMARKS, ON_DEMAND
    from tests.benchmarks.workbench import Workbench

    names = only or list(BENCHMARKS)
    known = {**BENCHMARKS, **ON_DEMAND}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"no {unknown[0]!r}: expected one of {', '.join(known)}")
    rows: list[Row] = []
    with Workbench(**options) as bench:
        for name in names:
            print(f"{name} …", file=sys.stderr)
            rows += known[name](bench)
    return rows, bench.skipped


def _print_tables(rows: list[Row], skipped: list[str], machine: Machine) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    for title, group in groupby((row for row in rows if row.who), lambda r: (r.benchmark, r.what)):
        console.print(_make_comparison(": ".join(title), list(group)))
        console.print()
    console.print(_make_list([row for row in rows if not row.who]))
    for what in skipped:
        console.print(f"[yellow]not measured[/yellow]  {what}")
    console.print(f"\n{machine.describe()}")


def _make_comparison(title: str, rows: list[Row]) -> Table:
    """Return one line for each who, one column for each figure: median, and min to max."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    table.add_column("")
    for row in rows:
        if row.who == rows[0].who:
            table.add_column(f"{row.column}, {row.unit}", justify="right", no_wrap=True)
    for who, group in groupby(rows, lambda row: row.who):
        table.add_row(who, *map(_show_spread, group))
    return table


def _make_list(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("benchmark", "what"):
        table.add_column(heading, no_wrap=True)
    for heading in ("min", "median", "max", "aim"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    before = ""
    for row in rows:
        numbers = [_show(number, row.unit) for number in _spread(row)]
        name = row.benchmark if row.benchmark != before else ""
        table.add_row(name, row.what, *numbers, _show_aim(row), f"[dim]{row.note}[/dim]")
        before = row.benchmark
    return table


def _show_spread(row: Row) -> str:
    low, middle, high = (f"{n:,.{_digits(row)}f}" for n in _spread(row))
    return f"{middle} [dim]{low}-{high}[/dim]"


def _spread(row: Row) -> tuple[float, float, float]:
    return min(row.values), row.median, max(row.values)


def _digits(row: Row) -> int:
    return 1 if row.median < 1000 else 0


def _show(number: float, unit: str) -> str:
    return f"{number:{_UNITS.get(unit, ',.0f')}} {unit}"


def _show_aim(row: Row) -> str:
    if row.aim is None:
        return ""
    verdict = "[green]met[/green]" if row.is_met else "[bold red]MISSED[/bold red]"
    return f"{'>=' if row.is_floor else '<='} {row.aim:g} {row.unit} {verdict}"


if __name__ == "__main__":
    app(prog_name="python -m tests.benchmarks")
