"""What a model's reason to stop means in words, the same in card, terminal, repr and lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtask_kit.log.text import make_printable

if TYPE_CHECKING:
    from longtask_kit.log.changes import Change
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.transcript import Transcript


def note_finish(state: Transcript, *, max_tokens: int | None) -> str | None:
    """Return what is to be said of a completed task's end, or None where nothing is.

    Args:
        state: The task, all of it.
        max_tokens: What it was submitted with.
    """
    if state.status != "completed":
        return None
    if state.tool_calls:
        return _count_calls(len(state.tool_calls))
    note = describe_finish(state.finish_reason, max_tokens=max_tokens)
    if state.finish_reason == "length" and not state.text:
        return f"{note}, all of it used for reasoning"
    return "refused" if state.refusal else note


def note_record(record: TaskRecord | Change, *, max_tokens: int | None) -> str | None:
    """Return the same of a task whose log nobody has read, as far as its record knows."""
    if record.status != "completed":
        return None
    return describe_finish(record.finish_reason, max_tokens=max_tokens)


def describe_finish(finish_reason: str | None, *, max_tokens: int | None) -> str | None:
    """Return words for a reason to stop; None for `stop`, and where none was given."""
    match finish_reason:
        case None | "stop":
            return None
        case "length":
            return "stopped at max_tokens" + (f" ({max_tokens:,})" if max_tokens else "")
        case "content_filter":
            return "filtered"
        case "tool_calls" | "function_call":
            return "tool calls"
        case "refusal":
            return "refused"
        case other:
            return f"stopped: {' '.join(make_printable(other[:80]).split())}"


def _count_calls(count: int) -> str:
    return "1 tool call" if count == 1 else f"{count} tool calls"
