"""What a card says of a task beside its text: state, figures, note, progress, tool calls, data.

The protocol with the page, in one place: `read_facts` names what stands in `meta` of
`js/src/card.js`. The page ticks the clock and counts down, so `js/src/format.js` words figures and
notes too; js/test/facts_cases.json holds both to the same words.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from longtask_kit.cassettes import describe_replay
from longtask_kit.client.prices import count_cost
from longtask_kit.errors import find_cure
from longtask_kit.log.finish import note_finish

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from longtask_kit.client.prices import Price
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.submit.spec import TaskSpec

_PROMPT_CHARS = 120
_BLOCK_CHARS = 10_000
_TOLD_BESIDE = ("progress", "replayed")  # of a task's data
GONE = "not there any more"
ACTIVE = frozenset({"pending", "running", "retrying"})


class State(NamedTuple):
    """A state as people read it.

    Attributes:
        word: What stands beside the dot.
        kind: Its colour: `run`, `wait`, `good`, `bad`, `warn` or `quiet`.
    """

    word: str
    kind: str


class Figure(NamedTuple):
    """One of the figures beside the state."""

    before: str
    value: str
    after: str


class Note(NamedTuple):
    """What stands between head and text: why a task waits, failed or ended early."""

    cause: str
    cure: str = ""


def read_facts(
    state: Transcript, *, spec: TaskSpec | None = None, price: Price | None = None
) -> dict[str, Any]:
    """Return what stands around a task's text, by the names of the page.

    `text`, `reasoning` and what a task was given (`describe_task`) come beside it.
    """
    finish = note_finish(state, max_tokens=spec.max_tokens if spec else None)
    unit = spec.unit if spec else "token"
    replayed = describe_replay(state.data.get("replayed"))
    is_thinking = state.first_token is not None and state.answered is None
    word, kind = describe_state(
        state.status,
        finish=finish,
        has_text=state.answered is not None or bool(state.refusal),
        is_thinking=is_thinking,
        unit=unit,
    )
    return {
        "status": state.status,
        "word": word,
        "kind": kind,
        "attempt": state.attempt,
        "continued": state.seams or None,
        "tokens": state.tokens,
        "unit": unit,
        "elapsedMs": _count_ms(state.began, state.updated),
        "attemptBeganMs": _count_ms(state.began, state.started),
        "firstTokenMs": _count_ms(state.started, state.first_token),
        "silenceMs": round(1000 * state.silence.total_seconds()) or None,
        "reasoningMs": _count_ms(state.first_token, state.answered) if state.reasoning else None,
        "error": state.error,
        "code": state.code,
        "cure": find_cure(state.code) if state.status == "failed" else None,
        "finishReason": state.finish_reason,
        "reasoningTokens": getattr(state.usage, "reasoning_tokens", None),
        "costUsd": None if replayed else count_cost(price, state.usage),  # nobody paid again
        "toolCalls": list(state.tool_calls) or None,
        "refusal": state.refusal or None,
        "progress": state.data.get("progress"),
        "replayed": replayed,
        "data": {name: v for name, v in state.data.items() if name not in _TOLD_BESIDE} or None,
    }


def describe_task(task_id: str, spec: TaskSpec | None) -> dict[str, Any]:
    """Return what is known of a task before anything has happened."""
    facts: dict[str, Any] = {"taskId": task_id, "model": None, "maxTokens": None, "prompt": None}
    if spec is None:
        return facts
    prompt = " ".join(spec.prompt.split())
    if len(prompt) > _PROMPT_CHARS:
        prompt = prompt[: _PROMPT_CHARS - 1] + "…"
    return facts | {
        "model": spec.model,
        "maxTokens": spec.max_tokens,
        "prompt": f"“{prompt}”" if prompt else None,
    }


def describe_state(
    status: str,
    *,
    finish: str | None = None,
    has_text: bool = False,
    is_thinking: bool = False,
    unit: str = "token",
) -> State:
    """Return the state's word and kind; an end that is no `stop` looks and reads different.

    Args:
        status: The task's, or `idle`.
        finish: What is to be said of a completed task's end, see `note_finish`.
        has_text: Whether the answer has begun.
        is_thinking: Whether the model reasons, and answers later.
        unit: What the answer is counted in, `TaskSpec.unit`.
    """
    match status:
        case "pending":
            return State("queued", "wait")
        case "running" if has_text:
            return State("streaming", "run")
        case "running":
            return State("thinking" if is_thinking else f"waiting for the first {unit}", "run")
        case "retrying":
            return State("retrying", "wait")
        case "completed":
            return State(finish, "warn") if finish else State("completed", "good")
        case "failed":
            return State("failed", "bad")
    return State(status, "quiet")


def describe_figures(facts: Mapping[str, Any]) -> list[Figure]:
    """Return the figures beside the state; what is not known is left out."""
    figures: list[Figure] = []
    if not facts.get("taskId"):
        return figures
    tokens, elapsed_ms = facts.get("tokens"), facts.get("elapsedMs")
    if model := facts.get("model"):
        figures.append(Figure("", str(model), ""))
    attempt, seams = facts.get("attempt") or 0, facts.get("continued") or 0
    if attempt - seams > 1:  # a text that went on is one text, however many attempts it took
        figures.append(Figure("attempt ", str(attempt), ""))
    if elapsed_ms is not None:
        figures.append(Figure("", format_duration(elapsed_ms), ""))
    if tokens:
        figures.append(Figure("", f"{tokens:,}", f" {name_unit(facts)}"))
    if (rate := count_rate(facts)) is not None:
        figures.append(Figure("", _format_rate(rate), "/s"))
    if (first_ms := facts.get("firstTokenMs")) is not None:
        figures.append(Figure("first ", format_duration(first_ms), ""))
    if thought := facts.get("reasoningTokens"):
        figures.append(Figure("", f"{thought:,}", " for reasoning"))
    if seams:
        figures.append(Figure("continued ", "once" if seams == 1 else f"{seams} times", ""))
    if (cost := facts.get("costUsd")) is not None:
        figures.append(Figure("", f"${cost:.{4 if cost < 0.01 else 2}f}", ""))
    return figures


def name_unit(facts: Mapping[str, Any]) -> str:
    """Return what stands behind the number of a task's tokens, or of its handler's pieces."""
    unit = facts.get("unit") or "token"
    return unit if facts.get("tokens") == 1 else f"{unit}s"


def format_duration(ms: float) -> str:
    """Write 850 ms, 3.2 s, 1 min 05 s, 2 h 05 min."""
    if ms < 999.5:
        return f"{_round(ms)} ms"
    if ms < 59_950:
        return f"{_round(ms / 100) / 10:.1f} s"
    minutes, seconds = divmod(int(ms / 1000 + 0.05), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count_rate(facts: Mapping[str, Any]) -> float | None:
    """Return tokens a second since the text's first, or None before there is a figure.

    What lies between two attempts, of which one goes on behind the other, is nobody's pace.
    """
    if facts.get("elapsedMs") is None or (facts.get("tokens") or 0) <= 1:
        return None
    idle_ms = (facts.get("attemptBeganMs") or 0) + (facts.get("firstTokenMs") or 0)
    streaming_ms = facts["elapsedMs"] - idle_ms - (facts.get("silenceMs") or 0)
    return float(1000 * facts["tokens"] / streaming_ms) if streaming_ms > 100 else None


def _format_rate(rate: float) -> str:
    return f"{_round(10 * rate) / 10:.1f}" if rate < 10 else str(_round(rate))


def _round(number: float) -> int:
    """Round as JavaScript does: halves go up."""
    return int(number + 0.5)


def describe_note(facts: Mapping[str, Any]) -> Note | None:
    """Return what stands between head and text, or None."""
    error, status = facts.get("error"), facts.get("status")
    if status == "retrying" and error:
        of = f" of {most}" if (most := facts.get("maxAttempts")) else ""
        cause = f"Attempt {facts.get('attempt')}{of} failed:"
        return Note(cause, f"{_end_sentence(error)} The queue tries again by itself.")
    if error:
        return Note(_end_sentence(error), facts.get("cure") or "")
    if refusal := facts.get("refusal"):
        return Note("The model refused:", refusal)
    if facts.get("finishReason") == "content_filter":
        return Note(
            "Filtered by the model service:", "the answer ends where its filter stopped it."
        )
    return None


def _end_sentence(text: str) -> str:
    return text if text.rstrip()[-1:] in tuple(".!?…:") else f"{text}."


def describe_blocks(facts: Mapping[str, Any]) -> list[str]:
    """Return tool calls, and what a handler gave beside its text, as quiet lines of JSON."""
    calls = [_describe_call(call) for call in facts.get("toolCalls") or ()]
    data = (facts.get("data") or {}).items()
    return calls + [f"{name}: {_cut(_write_json(value))}" for name, value in data]


def _describe_call(call: Mapping[str, Any]) -> str:
    function = call.get("function") or call
    given = function.get("arguments") or ""
    return (
        f"{function.get('name', 'tool')}({given if isinstance(given, str) else _write_json(given)})"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _BLOCK_CHARS else f"{text[:_BLOCK_CHARS]} …"


def _write_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def describe_progress(facts: Mapping[str, Any]) -> tuple[float | None, str] | None:
    """Return a progress bar's share, None where the total is not known, and its words."""
    progress = facts.get("progress")
    if not isinstance(progress, dict) or not isinstance(progress.get("done"), int | float):
        return None
    done, total, message = progress["done"], progress.get("total"), progress.get("message")
    if isinstance(total, int | float) and total > 0:
        share, count = min(1.0, max(0.0, done / total)), f"{done:,.15g} of {total:,.15g}"
    else:
        share, count = None, f"{done:,.15g}"
    return share, f"{count} · {message}" if message else count


def _count_ms(begin: datetime | None, end: datetime | None) -> int | None:
    return round((end - begin).total_seconds() * 1000) if begin and end else None
