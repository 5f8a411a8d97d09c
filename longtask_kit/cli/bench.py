"""`longtask bench`: how fast your own services are, and what limits them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from longtask_kit.cli.meter import Meter, Report

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
    model: Annotated[str | None, typer.Option(help="Model name; default LONGTASK_MODEL.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure your own services; see `BENCH_HELP`."""
    console = Console(stderr=True)
    with console.status("connecting …"):
        meter = _open_meter()
    columns = TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with meter.kit as kit, Progress(*columns, console=console, transient=True) as bar:
        if not as_json:
            console.print(Text(f"longtask_kit: {kit.description}", style="dim"), soft_wrap=True)
        row = bar.add_task("", total=tasks)
        report = meter.run(
            lambda kit: kit.submit(prompt, model=model, max_tokens=max_tokens),
            tasks=tasks,
            at_once=at_once,
            advance=lambda: bar.advance(row),
        )
    _print(report, as_json=as_json)


def _open_meter() -> Meter:
    from longtask_kit.cli.meter import Meter
    from longtask_kit.client.connect import describe, is_hosted
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.settings import CLIENT_NAMES, Settings

    settings = Settings()
    if is_hosted(settings):
        settings.require(*CLIENT_NAMES)
        return Meter(settings, describe(settings))
    return Meter(LocalStack.join_or_start().settings, LocalStack.DESCRIPTION)


def _print(report: Report, *, as_json: bool) -> None:
    from longtask_kit.cli.meter import describe_limit

    limit = describe_limit(report)
    if as_json:
        sys.stdout.write(json.dumps(asdict(report) | {"limit": limit}) + "\n")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _describe(report):
        table.add_row(Text(name, style="dim"), Text(value))
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"\n{limit}"), soft_wrap=True)


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
