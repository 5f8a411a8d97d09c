"""`python -m tests.benchmarks`: measure on this machine, on loopback, and print a table.

An aim that is missed is marked and changes no exit code, since the machine may be busy: the last
line says how much. A wrong text does end the command with an error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import CpuMeter, Machine, Row

# longtask_kit is imported by what the command calls, after LONGTASK_HOME is set.
_UNITS = {"s": ".3f", "ms": ".2f", "x": ".2f"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This benchmark; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Times each is measured.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One run, as short as possible.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, no table.")] = False,
) -> None:
    """Measure longtask_kit on a stack of its own and print min, median, max and the aims."""
    meter = CpuMeter()
    with tempfile.TemporaryDirectory(prefix="longtask-bench-") as home:
        os.environ["LONGTASK_HOME"] = home
        rows = _measure(only, runs=runs, is_quick=quick)
    machine = meter.read()  # all stacks have ended, so their CPU time counts as ours
    if as_json:
        wire = {"machine": asdict(machine), "rows": [row.to_wire() for row in rows]}
        print(json.dumps(wire, indent=2))
    else:
        _print_table(rows, machine)


def _measure(only: list[str] | None, *, runs: int, is_quick: bool) -> list[Row]:
    from tests.benchmarks.cases import BENCHMARKS, ON_DEMAND
    from tests.benchmarks.workbench import Workbench

    names = only or list(BENCHMARKS)
    known = {**BENCHMARKS, **ON_DEMAND}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"no {unknown[0]!r}: expected one of {', '.join(known)}")
    rows: list[Row] = []
    with Workbench(runs=runs, is_quick=is_quick) as bench:
        for name in names:
            print(f"{name} …", file=sys.stderr)
            rows += known[name](bench)
    return rows


def _print_table(rows: list[Row], machine: Machine) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("benchmark", "what"):
        table.add_column(heading, no_wrap=True)
    for heading in ("min", "median", "max", "aim"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    before = ""
    for row in rows:
        numbers = [_show(n, row.unit) for n in (min(row.values), row.median, max(row.values))]
        name = row.benchmark if row.benchmark != before else ""
        table.add_row(name, row.what, *numbers, _show_aim(row), f"[dim]{row.note}[/dim]")
        before = row.benchmark
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
    console.print(f"\n{machine.describe()}", highlight=False)


def _show(number: float, unit: str) -> str:
    return f"{number:{_UNITS.get(unit, ',.0f')}} {unit}"


def _show_aim(row: Row) -> str:
    if row.aim is None:
        return ""
    verdict = "[green]met[/green]" if row.is_met else "[bold red]MISSED[/bold red]"
    return f"{'>=' if row.is_floor else '<='} {row.aim:g} {row.unit} {verdict}"


if __name__ == "__main__":
    app(prog_name="python -m tests.benchmarks")
