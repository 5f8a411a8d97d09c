"""`longtask queue`: what the queue holds, why something was not delivered, and what to do."""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longtask_kit.cli.console import JsonOption, OwnConsole
from longtask_kit.cli.table import print_table
from longtask_kit.client.terminal import print_json_line
from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.log.keys import is_task_id
from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx

queue_app = typer.Typer(
    help="See what the queue holds and why something was not delivered; retry, delete, pause.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TIMEOUT_S = 30.0
# upstash.com/docs/qstash/howto/debug-logs
_STATES = (
    *("CREATED", "ACTIVE", "RETRY", "ERROR", "IN_PROGRESS", "DELIVERED", "FAILED"),
    *("CANCEL_REQUESTED", "CANCELLED"),
)
_STATE_STYLES = {"DELIVERED": "green", "FAILED": "red", "ERROR": "red", "RETRY": "yellow"}
_MessageArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A message id (msg_…) or a dead letter's (<ms>-<n>).")
]
_QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue's name.")]


@queue_app.command("list")
def list_messages(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many messages.")] = 20,
    state: Annotated[
        str | None, typer.Option(help="Only this state, e.g. FAILED or RETRY.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest messages with their state and reason, the dead letters, the queues."""
    if state is not None and state.upper() not in _STATES:
        raise ConfigError(f"--state is {state[:40]!r}: expected one of {', '.join(_STATES)}.")
    state = state and state.upper()
    with _open_queue() as client:
        events = _ask(client, "GET", "/v2/events", count="1000")["events"]
        dead = _ask(client, "GET", "/v2/dlq", count="100")["messages"]
        queues = _ask(client, "GET", "/v2/queues")
    latest = [event for event in latest_events(events) if state in (None, event["state"])][:limit]
    if as_json:
        for kind, items in (("message", latest), ("deadLetter", dead), ("queue", queues)):
            for item in items:
                print_json_line({"kind": kind} | item)
        return
    console = OwnConsole(highlight=False)
    if latest:
        _print_messages(console, latest)
    else:
        console.print(Text("no messages yet", style="dim"))
    if dead:
        console.print(Text("\ndead letters (longtask queue retry ID sends one again)"))
        # The local queue's dead letters come without a body; their events have it.
        tasks = {event["messageId"]: find_task_id(event) for event in events}
        _print_dead_letters(console, dead, tasks)
    if queues:
        console.print(Text("\nqueues"))
        console.print(_queues_table(queues))


@queue_app.command()
def show(message_id: _MessageArgument, *, as_json: JsonOption = False) -> None:
    """Show a message or dead letter, and everything that happened to it."""
    with _open_queue() as client:
        dead = _find_dead_letter(client, message_id)
        own_id = dead["messageId"] if dead else message_id
        events = _ask(client, "GET", "/v2/events", count="1000", messageId=own_id)["events"]
        if not events and dead is None:
            raise LongTaskError(
                f"The queue knows nothing of {message_id}: `longtask queue list` shows what it "
                "does know; events are kept for the last few thousand messages."
            )
        facts = dead or events[0]
    events.reverse()
    if as_json:
        print_json_line({"message": facts, "events": events})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in describe_facts(facts):
        table.add_row(Text(name, style="dim"), Text(make_printable(value), overflow="fold"))
    console = Console()
    console.print(table)
    console.print(_timeline(events))


@queue_app.command()
def retry(message_id: _MessageArgument) -> None:
    """Send a dead letter again, as a new message."""
    with _open_queue() as client:
        dead = _find_dead_letter(client, message_id)
        if dead is None:
            raise LongTaskError(
                f"{message_id} is no dead letter: `longtask queue list` shows them. A message "
                "that still waits is retried by itself."
            )
        # The hosted service has the bulk form only, which the local queue knows too.
        answer = _ask(client, "POST", "/v2/dlq/retry", dlqIds=dead["dlqId"])
    sys.stdout.write(f"sent again as {answer['responses'][0]['messageId']}\n")


@queue_app.command()
def delete(message_id: _MessageArgument) -> None:
    """Delete a dead letter, or cancel a message that is not finished."""
    with _open_queue() as client:
        dead = _find_dead_letter(client, message_id)
        if dead is not None:
            _ask(client, "DELETE", f"/v2/dlq/{dead['dlqId']}")
        else:
            _ask(client, "DELETE", f"/v2/messages/{quote(message_id, safe='')}")
    sys.stdout.write("dead letter deleted\n" if dead else "message cancelled\n")


@queue_app.command()
def pause(queue: _QueueArgument) -> None:
    """Stop a queue's deliveries; it goes on accepting."""
    with _open_queue() as client:
        _ask(client, "POST", f"/v2/queues/{quote(queue, safe='')}/pause")
    sys.stdout.write(f"{queue} is paused; resume it with: longtask queue resume {queue}\n")


@queue_app.command()
def resume(queue: _QueueArgument) -> None:
    """Let a paused queue deliver again."""
    with _open_queue() as client:
        _ask(client, "POST", f"/v2/queues/{quote(queue, safe='')}/resume")
    sys.stdout.write(f"{queue} delivers again\n")


def latest_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest event of each message, given the newest first."""
    latest: dict[str, dict[str, Any]] = {}
    for event in events:
        latest.setdefault(event["messageId"], event)
    return list(latest.values())


def describe_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is worth reading of a message or dead letter, as names and texts."""
    shown = [
        ("message", facts["messageId"]),
        ("dead letter", facts.get("dlqId")),
        ("to", f"{facts.get('method', 'POST')} {facts['url']}"),
        ("queue", facts.get("queueName")),
        ("url group", facts.get("topicName")),
        ("schedule", facts.get("scheduleId")),
        ("flow control", facts.get("flowControlKey")),
        ("labels", ", ".join(facts.get("labels", ()))),
        ("retries", facts.get("maxRetries")),
        ("reason", facts.get("error")),
        ("answer", facts.get("responseBody") if "dlqId" in facts else None),
    ]
    return [(name, str(value)) for name, value in shown if value not in (None, "")]


def find_task_id(facts: dict[str, Any]) -> str:
    """Return the task that a message is about, or its failure callback; empty if none."""
    try:
        body = json.loads(base64.b64decode(facts["body"]))
        if "sourceBody" in body:
            body = json.loads(base64.b64decode(body["sourceBody"]))
        task_id = str(body["taskId"])
    except (ValueError, KeyError, TypeError):
        return ""
    return task_id if is_task_id(task_id) else ""


def _print_messages(console: Console, events: Iterable[dict[str, Any]]) -> None:
    rows = [
        (
            _time(event["time"]),
            _state(event["state"]),
            event["messageId"],
            find_task_id(event),
            _path(event["url"]),
            _shown(_reason(event)),
        )
        for event in events
    ]
    print_table(console, ("time", "state", "message", "task", "to", "reason"), rows)


def _print_dead_letters(
    console: Console, dead: Iterable[dict[str, Any]], tasks: Mapping[str, str]
) -> None:
    rows = [
        (
            letter["dlqId"],
            find_task_id(letter) or tasks.get(letter["messageId"], ""),
            _path(letter["url"]),
            _shown(letter.get("error") or f"status {letter.get('responseStatus')}"),
        )
        for letter in dead
    ]
    print_table(console, ("dead letter", "task", "to", "reason"), rows)


def _queues_table(queues: Iterable[dict[str, Any]]) -> Table:
    table = _table("queue", "parallelism", "waiting", "state")
    for queue in queues:
        state = Text("paused", style="yellow") if queue["paused"] else Text("delivers")
        table.add_row(queue["name"], str(queue["parallelism"]), str(queue["lag"]), state)
    return table


def _timeline(events: Iterable[dict[str, Any]]) -> Table:
    table = _table("time", "state")
    table.add_column("reason", overflow="fold", ratio=1)
    for event in events:
        table.add_row(_time(event["time"]), _state(event["state"]), _shown(_reason(event)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _reason(event: dict[str, Any]) -> str:
    reason = event.get("error") or ""
    if "nextDeliveryTime" in event and event["state"] == "RETRY":
        reason = f"next at {_time(event['nextDeliveryTime'])}; {reason}"
    return reason


def _shown(text: str) -> Text:
    return Text(make_printable(" ".join(text.split())))


def _path(url: str) -> Text:
    return _shown(urlsplit(url).path or url)


def _state(state: str) -> Text:
    return Text(state, style=_STATE_STYLES.get(state, ""))


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%m-%d %H:%M:%S")


def _open_queue() -> httpx.Client:
    """Return a client of the queue that tasks go through: hosted, or the local stack's."""
    import httpx

    from longtask_kit.client.connect import is_hosted
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.settings import Settings
    from longtask_kit.transport import make_connection_options

    settings = Settings()
    if not is_hosted(settings):
        settings = LocalStack.join_or_start().settings
    if settings.qstash_token is None:
        raise ConfigError("QSTASH_TOKEN is not set; it is at console.upstash.com/qstash.")
    return httpx.Client(
        base_url=settings.qstash_url,
        headers={"Authorization": f"Bearer {settings.qstash_token.get_secret_value()}"},
        timeout=_TIMEOUT_S,
        **make_connection_options(settings.qstash_url),
    )


def _ask(client: httpx.Client, method: str, path: str, **params: str) -> Any:  # noqa: ANN401
    """Ask the queue, and return its JSON answer; None for an empty one."""
    import httpx

    try:
        answer = client.request(method, path, params=params)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise LongTaskError(
            f"The queue does not answer ({type(exc).__name__}: {exc}). Check QSTASH_URL, or see "
            "`longtask doctor`."
        ) from exc
    if answer.is_success:
        return answer.json() if answer.content.strip().startswith((b"{", b"[")) else None
    try:
        reason = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:200]
    raise LongTaskError(f"The queue refused (status {answer.status_code}): {reason}")


def _find_dead_letter(client: httpx.Client, message_id: str) -> dict[str, Any] | None:
    """Return the dead letter with this id, or of this message; None if there is none."""
    name = "messageId" if message_id.startswith("msg_") else "dlqIds"
    found = _ask(client, "GET", "/v2/dlq", **{name: message_id})["messages"]
    # Filtered here too: a service that ignores the filter must not have us delete another one.
    own = [one for one in found if message_id in (one["messageId"], one.get("dlqId"))]
    return own[0] if own else None
