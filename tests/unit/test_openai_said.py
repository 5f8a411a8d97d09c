"""What a model says beside its answer: reasoning, refusals, tool calls, in every server's way."""

import itertools
import json
from typing import Any

import pytest

from longtask_kit.server.handlers import Delta, Outcome
from longtask_kit.server.openai_decoder import Piece
from tests.unit._model_stream import DONE, decode, delta, frame, said

STOP = delta("", "stop") + DONE


def joined(items: list[Piece | Outcome]) -> dict[str, str]:
    """Return each kind's text, in the order in which the kinds came."""
    texts: dict[str, str] = {}
    for item in items[:-1]:
        kind, text = ("text", item) if isinstance(item, str) else (item.type, item.text)  # type: ignore[union-attr]
        texts[kind] = texts.get(kind, "") + text
    return texts


def ending_of(items: list[Piece | Outcome]) -> str | None:
    assert isinstance(items[-1], Outcome)
    return items[-1].finish_reason


# Reasoning


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
        {"content": [{"type": "reasoning", "text": "hm"}]},
        {"content": "", "reasoning_content": "hm", "reasoning": None},
    ],
    ids=str,
)
def test_reasoning_is_told_apart_in_every_spelling(thought: dict[str, Any]) -> None:
    stream = said(role="assistant", content="") + said(**thought) + delta("Yes.") + STOP
    assert decode(stream) == [Delta("reasoning", "hm"), "Yes.", Outcome(finish_reason="stop")]
    whole = frame({"choices": [{"message": thought, "finish_reason": "length"}]})
    assert decode(whole) == [Delta("reasoning", "hm"), Outcome(finish_reason="length")]


@pytest.mark.parametrize(
    "nothing",
    [
        {"reasoning_content": None},
        {"reasoning_content": ""},
        {"reasoning_details": []},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}]},
        {"reasoning": {}},
    ],
)
def test_no_reasoning_is_none(nothing: dict[str, Any]) -> None:
    assert decode(said(content="a", **nothing) + STOP) == ["a", Outcome(finish_reason="stop")]


def test_parts_come_in_their_order() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "1"}, {"text": "2"}]},
        {"type": "text", "text": "a"},
        {"type": "reference", "reference_ids": [7]},
        {"type": "text", "text": "b"},
    ]
    assert decode(said(content=parts) + STOP)[:-1] == [Delta("reasoning", "12"), "a", "b"]


THOUGHT = [
    ("<think>hm</think>Yes.", "hm", "Yes."),
    ("<think>\nhm\nhm </think>\n\nYes.", "hm\nhm ", "Yes."),
    ("\n<think>hm</think> Yes.\n", "hm", "Yes.\n"),
    ("<think>a < b </ think> </thin</think>c</think>d", "a < b </ think> </thin", "c</think>d"),
    ("<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("<think>never ended </thi", "never ended </thi", ""),
    ("<think></think>", "", ""),
    ("<think", "", "<think"),
    ("<thinking>hm</thinking>", "", "<thinking>hm</thinking>"),
    ("So <think>hm</think>", "", "So <think>hm</think>"),
    (" \n Yes.", "", " \n Yes."),
    ("\n\n", "", "\n\n"),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), THOUGHT)
def test_think_tags_at_the_beginning_are_reasoning_wherever_they_are_cut(
    text: str, reasoning: str, answer: str
) -> None:
    expected = {k: v for k, v in (("reasoning", reasoning), ("text", answer)) if v}
    cuts = [[text], [*text]]
    cuts += [[text[:at], text[at:]] for at in range(1, len(text))]
    cuts += [[text[:a], text[a:b], text[b:]] for a, b in itertools.combinations(range(1, 12), 2)]
    for pieces in cuts:
        assert joined(decode(b"".join(map(delta, pieces)) + STOP)) == expected, pieces


def test_a_server_that_tells_reasoning_apart_may_write_the_tag() -> None:
    stream = said(reasoning_content="hm") + delta("<think>") + delta(" is a tag.") + STOP
    assert joined(decode(stream)) == {"reasoning": "hm", "text": "<think> is a tag."}


def test_an_answer_that_is_all_reasoning_is_an_answer() -> None:
    for stream in (said(reasoning_content="hm") + DONE, delta("<think>hm") + DONE):
        assert decode(stream) == [Delta("reasoning", "hm"), Outcome()]


# Refusals


@pytest.mark.parametrize(
    "stream",
    [
        said(content=None, refusal="I ") + said(refusal="can't.") + STOP,
        said(content=[{"type": "refusal", "refusal": "I can't."}]) + STOP,
        said(refusal="I can't.") + DONE,
        frame({"choices": [{"message": {"refusal": "I can't."}, "finish_reason": "stop"}]}),
    ],
)
def test_a_refusal_is_told_as_one(stream: bytes) -> None:
    items = decode(stream)
    assert joined(items) == {"refusal": "I can't."}
    assert ending_of(items) == "refusal"


@pytest.mark.parametrize("reason", ["length", "content_filter", "eos", "recitation"])
def test_any_other_finish_reason_is_passed_as_it_is(reason: str) -> None:
    stream = said(refusal="no", tool_calls=[{"index": 0, "function": {"name": "f"}}])
    assert ending_of(decode(stream + delta("", reason) + DONE)) == reason


# Tool calls


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def piece(
    index: int | None = None,
    id_: str | None = None,
    name: str | None = None,
    arguments: object = None,
    **more: object,
) -> dict[str, Any]:
    """Return a piece of a call; what is None is left out."""
    function = {"name": name, "arguments": arguments}
    fields = {"index": index, "id": id_, **more}
    return {k: v for k, v in fields.items() if v is not None} | {
        "function": {k: v for k, v in function.items() if v is not None}
    }


def calls_of(*chunks: list[dict[str, Any]], end: str = "tool_calls") -> list[dict[str, Any]]:
    """Return the calls that pieces, chunk by chunk, make."""
    stream = b"".join(said(content=None, tool_calls=pieces) for pieces in chunks)
    *_, told, outcome = decode(stream + delta("", end) + DONE)
    assert isinstance(told, Delta)
    assert told.type == "tool_calls"
    assert outcome == Outcome(finish_reason="tool_calls")
    calls: list[dict[str, Any]] = json.loads(told.text)
    return calls


OSLO, ROME = '{"city": "Oslo"}', '{"city": "Rome"}'
TWO = [call("a", "weather", OSLO), call("b", "weather", ROME)]
WAYS = {
    "OpenAI: id and name first, then arguments by index": [
        [piece(0, "a", "weather", "", type="function")],
        [piece(0, arguments=OSLO[:5])],
        [piece(0, arguments=OSLO[5:])],
        [piece(1, "b", "weather", "", type="function")],
        [piece(1, arguments=ROME)],
    ],
    "interleaved, the later call first": [
        [piece(1, "b", "weather", ""), piece(0, "a", "weather", "")],
        [piece(1, arguments=ROME[:3]), piece(0, arguments=OSLO[:4])],
        [piece(0, arguments=OSLO[4:]), piece(1, arguments=ROME[3:])],
    ],
    "vLLM: a new id in each piece": [
        [piece(0, "a", "weather"), piece(1, "b", "weather")],
        [piece(0, "x", arguments=OSLO[:4]), piece(1, "y", arguments=ROME[:4])],
        [piece(0, "z", arguments=OSLO[4:]), piece(1, "w", arguments=ROME[4:])],
    ],
    "name and id again in each piece": [
        [piece(0, "a", "weather", OSLO[:4]), piece(1, "b", "weather", ROME[:4])],
        [piece(0, "a", "weather", OSLO[4:]), piece(1, "b", "weather", ROME[4:])],
    ],
    "Ollama: whole, all with the index 0": [
        [piece(0, "a", "weather", OSLO)],
        [piece(0, "b", "weather", ROME)],
    ],
    "the arguments as an object": [
        [piece(0, "a", "weather", json.loads(OSLO)), piece(1, "b", "weather", json.loads(ROME))]
    ],
    "Azure: an empty piece, nulls, no type": [
        [piece(0, "a", "weather", "")],
        [{"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": OSLO}}],
        [{"index": 1, "id": "b", "function": {"name": "weather", "arguments": None}}],
        [{"index": 1, "id": "", "function": {"name": "", "arguments": ROME}}],
        [{"index": 1, "function": None}],
    ],
    "whole, without an index": [
        [piece(None, "a", "weather", OSLO), piece(None, "b", "weather", ROME)]
    ],
    "in pieces, without an index": [
        [piece(None, "a", "weather", OSLO[:4])],
        [piece(None, arguments=OSLO[4:])],
        [piece(None, "b", "weather", ROME[:4])],
        [piece(None, "b", arguments=ROME[4:])],
    ],
    "arguments before the name": [
        [piece(0, arguments=OSLO)],
        [piece(0, "a", "weather")],
        [piece(1, "b", "weather", ROME)],
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_tool_calls_are_complete_however_a_server_sends_them(way: str) -> None:
    assert calls_of(*WAYS[way]) == TWO


@pytest.mark.parametrize("end", ["tool_calls", "stop", "function_call"])
def test_calls_end_as_tool_calls_whatever_the_server_says(end: str) -> None:
    assert calls_of(*WAYS["Ollama: whole, all with the index 0"], end=end) == TWO


@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize("id_", ["", None])
def test_missing_ids_are_made_up_and_differ(index: int | None, id_: str | None) -> None:
    one, other = piece(index, id_, "weather", OSLO), piece(index, id_, "weather", ROME)
    calls = calls_of([one], [other], [piece(index, id_, "now", {})])
    assert [c["function"]["arguments"] for c in calls] == [OSLO, ROME, "{}"]
    assert [c["id"] for c in calls] == ["call_1", "call_2", "call_3"]


def test_ids_that_are_the_same_are_made_different() -> None:
    calls = calls_of([piece(0, "a", "weather", OSLO), piece(1, "a", "weather", ROME)])
    assert len({c["id"] for c in calls}) == 2


def test_calls_without_arguments_have_an_empty_object() -> None:
    calls = calls_of([piece(None, "a", "now", "")], [piece(None, "b", "now", "")])
    assert calls == [call("a", "now", "{}"), call("b", "now", "{}")]


def test_a_name_in_pieces_is_joined() -> None:
    calls = calls_of([piece(0, "a", "wea")], [piece(0, None, "ther")], [piece(0, arguments=OSLO)])
    assert calls == TWO[:1]


def test_arguments_that_were_cut_off_stay_as_they_are() -> None:
    stream = said(tool_calls=[piece(0, "a", "weather", OSLO[:5])]) + delta("", "length") + DONE
    [told, outcome] = decode(stream)
    assert told == Delta("tool_calls", json.dumps([call("a", "weather", OSLO[:5])]))
    assert outcome == Outcome(finish_reason="length")


def test_a_function_call_of_the_older_api_is_a_tool_call() -> None:
    stream = said(function_call={"name": "weather", "arguments": ""})
    stream += said(function_call={"arguments": OSLO}) + delta("", "function_call") + DONE
    told = Delta("tool_calls", json.dumps([call("call_1", "weather", OSLO)]))
    assert decode(stream) == [told, Outcome(finish_reason="tool_calls")]


def test_what_a_service_wants_back_stays_with_its_call() -> None:
    signature = {"google": {"thought_signature": "xyz"}}
    [told] = calls_of([piece(0, "a", "weather", OSLO, extra_content=signature)])
    assert told == TWO[0] | {"extra_content": signature}


def test_a_custom_tool_is_called_by_its_input() -> None:
    first = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "sel"}}
    more = {"index": 0, "custom": {"input": "ect 1"}}
    custom = {"name": "sql", "input": "select 1"}
    assert calls_of([first], [more]) == [{"id": "a", "type": "custom", "custom": custom}]


def test_text_comes_before_the_calls_and_calls_alone_are_an_answer() -> None:
    tools = said(tool_calls=[piece(0, "a", "weather", OSLO)])
    told = Delta("tool_calls", json.dumps(TWO[:1]))
    end = Outcome(finish_reason="tool_calls")
    assert decode(tools + delta("Let me see.") + STOP) == ["Let me see.", told, end]
    assert decode(tools + DONE) == [told, end]
