"""`longtask bench`: how fast your own services are, and what limits them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import MaxTokensOption, OwnConsole, connect_quietly, tell
from longtask_kit.client.options import read_spec

if TYPE_CHECKING:
    from longtask_kit.cli.meter import Report

BENCH_HELP = (
    "Measure your services: time to first token, tokens/s, delay, cost, and what limits them.\n\n"
    "Runs small tasks where `longtask run` would. Every stage of a task leaves its time in the "
    "log, on Redis' clock: submitted, attempt begun, each piece of text stored. This machine's "
    "clock is compared with it first, to half a round trip, so the age of a text is known when it "
    "arrives: that is the added delay, p50 and p99.\n\n"
    "Before Redis, a text waits for the next flush (LONGTASK_MIN_FLUSH_INTERVAL_S at most) and "
    "travels from the app; that is not in the delay, since only a model that stamps its tokens "
    "could show it."
)
_PROMPT = "Explain what a message queue is, in a few paragraphs."


def bench(
    prompt: Annotated[str, typer.Argument(help="What to ask the model, each time.")] = _PROMPT,
    *,
    tasks: Annotated[int, typer.Option(min=1, max=1000, help="How many tasks.")] = 5,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="So many at a time.")] = 1,
    model: Annotated[
        str | None, typer.Option(help="Model name; default LONGTASK_MODEL, or your key's.")
    ] = None,
    max_tokens: MaxTokensOption = "200",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure your own services; see `BENCH_HELP`."""
    # Before anything is started: a wrong value needs no service to be told.
    spec = read_spec(prompt=prompt, model=model, max_tokens=max_tokens)
    from longtask_kit.cli.meter import Meter
    from longtask_kit.client.task import submit_spec

    with connect_quietly(say_where=not as_json, asks=True, model=model) as kit:
        assert kit.settings is not None  # noqa: S101 - it was connected without a URL
        meter = Meter(kit.settings, kit.description, kit._door.aim)
    console = OwnConsole(stderr=True)
    columns = TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with meter.kit, Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", total=tasks)
        report = meter.run(
            lambda kit: submit_spec(kit._door, spec),
            tasks=tasks,
            at_once=at_once,
            advance=lambda: bar.advance(row),
        )
    _print(report, as_json=as_json)


def _print(report: Report, *, as_json: bool) -> None:
    from longtask_kit.cli.meter import describe_limit

    limit = describe_limit(report)
    if as_json:
        sys.stdout.write(json.dumps(asdict(report) | {"limit": limit}) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _describe(report):
        table.add_row(Text(name, style="dim"), Text(value))
    OwnConsole(highlight=False).print(table)
    tell(f"\n{limit}")


def _describe(report: Report) -> list[tuple[str, str]]:
    rate = report.tokens_per_s
    return [
        (
            "time to first token",
            f"p50 {report.first_token_ms:.0f} ms, longest {report.first_token_max_ms:.0f} ms",
        ),
        (
            "  of which, in ms",
            f"record {report.record_ms:.0f}, queue {report.queue_ms:.0f}, "
            f"model {report.model_ms:.0f}, from Redis {report.delivery_ms:.0f}",
        ),
        ("submit() returned after", f"{report.submit_ms:.0f} ms"),
        ("rate of a task", "it came at once" if rate is None else f"{rate:.1f} tokens/s"),
        (
            "added delay, Redis to here",
            f"p50 {report.delay_p50_ms:.1f} ms, p99 {report.delay_p99_ms:.1f} ms",
        ),
        ("  before Redis, at most", f"{report.flush_interval_ms:.0f} ms for the next flush"),
        ("round trip to Redis", f"{report.round_trip_ms:.1f} ms"),
        (
            "Redis commands",
            f"{report.commands_per_task:.0f} a task; 1,000 such tasks cost "
            f"${report.usd_per_1000_tasks:.2f} when hosted",
        ),
        ("queue messages", "1 a task"),
        ("measured", f"{report.tasks} tasks, {report.tokens} tokens, {report.seconds:.1f} s"),
    ]
