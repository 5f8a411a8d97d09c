"""TaskSpec: what is refused, and its wire form."""

import json
import math
import re
from collections import ChainMap
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtask_kit.errors import SubmitError
from longtask_kit.submit.request import change_spec, make_spec
from longtask_kit.submit.spec import MAX_INPUT_BYTES, TaskSpec

examples = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

full_texts = st.text(min_size=1, max_size=40).filter(lambda text: bool(text.strip()))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
specs = st.builds(
    TaskSpec,
    prompt=full_texts,
    model=st.none() | full_texts,
    max_tokens=st.integers(1, 1_000_000),
    temperature=st.floats(0, 2) | st.integers(0, 2),
    system=st.none() | full_texts,
    handler=full_texts,
    metadata=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
)


def nest(depth: int) -> dict[str, Any]:
    """Return a JSON object with lists in it, this deep."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return {"deep": inner}


def make_circle() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    return circle


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompt", None, '"prompt" must be text, got NoneType'),
        ("prompt", 5, '"prompt" must be text, got int'),
        ("prompt", b"bytes", '"prompt" must be text, got bytes'),
        ("prompt", ["a"], '"prompt" must be text, got list'),
        ("prompt", "", '"prompt" is empty'),
        ("prompt", " \n\t ", '"prompt" is empty'),
        ("prompt", "\u3000\u2028", '"prompt" is empty'),
        ("prompt", "x" * 20_000_001, '"prompt" has 20,000,001 characters'),
        ("prompt", "half \ud83d", '"prompt" holds half a surrogate pair'),
        ("model", "", '"model" is empty'),
        ("model", 4, '"model" must be text'),
        ("model", "m" * 201, '"model" has 201 characters'),
        ("model", "\udc00", '"model" holds half a surrogate pair'),
        ("max_tokens", 0, '"max_tokens" is 0'),
        ("max_tokens", -1, '"max_tokens" is -1'),
        ("max_tokens", 1_000_001, '"max_tokens" is 1000001'),
        ("max_tokens", 10**5000, '"max_tokens" is '),
        ("max_tokens", 1.0, '"max_tokens" must be a whole number, got float'),
        ("max_tokens", True, '"max_tokens" must be a whole number, got bool'),
        ("max_tokens", "100", '"max_tokens" must be a whole number, got str'),
        ("temperature", -0.1, '"temperature" is -0.1'),
        ("temperature", 2.1, '"temperature" is 2.1'),
        ("temperature", math.nan, '"temperature" is nan'),
        ("temperature", math.inf, '"temperature" is inf'),
        ("temperature", -math.inf, '"temperature" is -inf'),
        ("temperature", False, '"temperature" must be a number, got bool'),
        ("temperature", "0.7", '"temperature" must be a number, got str'),
        ("temperature", 1j, '"temperature" must be a number, got complex'),
        ("system", "", '"system" is empty'),
        ("system", {}, '"system" must be text'),
        ("system", "\ud83d", '"system" holds half a surrogate pair'),
        ("handler", "", '"handler" is empty'),
        ("handler", None, '"handler" must be text'),
        ("handler", "h" * 101, '"handler" has 101 characters'),
        ("metadata", None, '"metadata" must be a JSON object, got NoneType'),
        ("metadata", [("a", 1)], '"metadata" must be a JSON object, got list'),
        ("metadata", "{}", '"metadata" must be a JSON object, got str'),
        ("metadata", {"a": ...}, '"metadata.a" must be JSON, got ellipsis'),
        ("metadata", {"a": {1, 2}}, '"metadata.a" must be JSON, got set'),
        ("metadata", {"a": b""}, '"metadata.a" must be JSON, got bytes'),
        ("metadata", {("a", "b"): 1}, '"metadata" has the name'),
        ("metadata", {"a": math.nan}, '"metadata.a" is nan'),
        ("metadata", {"a": [math.inf]}, '"metadata.a[0]" is inf'),
        ("metadata", {"a": "half \ud83d"}, '"metadata.a" holds half'),
        ("metadata", {"\ud83d": 1}, '"metadata"'),
        ("metadata", make_circle(), "is nested deeper than 64"),
        ("metadata", {"a": "x" * 16_384}, '"metadata" has 16,393 bytes'),
    ],
    ids=lambda value: ascii(value)[:30] if not isinstance(value, int) else str(value % 10**7),
)
def test_a_wrong_value_is_refused_by_its_name(field: str, value: object, message: str) -> None:
    values: dict[str, Any] = {"prompt": "hi", field: value}
    with pytest.raises(SubmitError) as caught:
        TaskSpec(**values)
    assert message in str(caught.value)
    assert caught.value.task_id is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x"),
        ("prompt", "x" * (MAX_INPUT_BYTES - 200)),
        ("prompt", "\0"),
        ("prompt", "👩‍👩‍👧"),
        ("model", None),
        ("model", "m" * 200),
        ("max_tokens", 1),
        ("max_tokens", 1_000_000),
        ("temperature", 0),
        ("temperature", 2),
        ("temperature", 0.0),
        ("temperature", -0.0),
        ("handler", "h" * 100),
        ("metadata", {}),
        ("metadata", {"a": "x" * 16_375}),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_the_ends_of_the_ranges_are_allowed(field: str, value: object) -> None:
    values: dict[str, Any] = {"prompt": "hi", field: value}
    assert getattr(TaskSpec(**values), field) == value


def test_a_refusal_does_not_quote_a_long_prompt() -> None:
    with pytest.raises(SubmitError) as caught:
        TaskSpec(prompt="secret " * MAX_INPUT_BYTES)
    assert len(str(caught.value)) < 120


LARGE = "长" * 7_000_000


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"prompt": LARGE}, "prompt"),
        ({"prompt": "hi", "params": {"tools": [{"a": 1}, {"b": LARGE}]}}, "params.tools[1].b"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": LARGE}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": LARGE[:99_999]}] * 80}, "messages"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_too_large_in_all_is_told_by_its_place(asked: dict[str, Any], place: str) -> None:
    told = re.escape(f' bytes as JSON, most of them in "{place}": at most 20,000,000')
    with pytest.raises(SubmitError, match=told) as caught:
        TaskSpec(**asked)
    assert caught.value.field == place
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("depth", [50, 300, 600, 900, 2_000, 7_000])
def test_deep_metadata_is_refused_or_can_be_sent(depth: int) -> None:
    try:
        spec = TaskSpec(prompt="hi", metadata=nest(depth))
    except SubmitError:
        return
    assert json.dumps(spec.to_wire())


# The wire form


def test_only_what_is_set_is_sent() -> None:
    assert TaskSpec(prompt="hi").to_wire() == {
        "prompt": "hi",
        "maxTokens": 1000,
        "temperature": 0.7,
        "handler": "openai",
    }


def test_the_seeds_request_is_understood() -> None:
    spec = TaskSpec.from_wire(
        {
            "prompt": "写一个关于人工智能的短故事",
            "model": "gpt-3.5-turbo",
            "maxTokens": 1000,
            "temperature": 0.7,
        }
    )
    assert spec == TaskSpec(prompt="写一个关于人工智能的短故事", model="gpt-3.5-turbo")


@examples
@given(specs)
def test_a_spec_survives_its_wire_form_as_json(spec: TaskSpec) -> None:
    assert TaskSpec.from_wire(json.loads(json.dumps(spec.to_wire()))) == spec


@examples
@given(specs, st.dictionaries(st.text(max_size=8).map(lambda key: f"x-{key}"), json_values))
def test_keys_that_are_not_ours_are_ignored(spec: TaskSpec, more: dict[str, Any]) -> None:
    assert TaskSpec.from_wire(more | spec.to_wire()) == spec


def test_the_python_name_is_not_a_wire_name() -> None:
    assert TaskSpec.from_wire({"prompt": "hi", "max_tokens": 5}).max_tokens == 1000


def test_null_on_the_wire_means_the_default() -> None:
    names = ("model", "system", "handler", "metadata", "params", "retries", "timeoutS", "api")
    assert TaskSpec.from_wire({"prompt": "hi"} | dict.fromkeys(names)) == TaskSpec(prompt="hi")


@pytest.mark.parametrize("name", ["maxTokens", "temperature"])
def test_null_leaves_a_parameter_to_the_model_service(name: str) -> None:
    spec = TaskSpec.from_wire({"prompt": "hi", name: None})
    assert spec.to_wire()[name] is None
    assert TaskSpec.from_wire(spec.to_wire()) == TaskSpec.recall(spec.to_wire()) == spec


def test_a_wrong_body_is_refused_by_its_wire_name() -> None:
    with pytest.raises(SubmitError, match=r'^"maxTokens" is 0: ') as caught:
        TaskSpec.from_wire({"prompt": "hi", "maxTokens": 0})
    assert caught.value.field == "maxTokens"
    with pytest.raises(SubmitError, match=r'^"params.max_tokens" .* give it as maxTokens\.$'):
        TaskSpec.from_wire({"prompt": "hi", "params": {"max_tokens": 5}})


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
USER = {"role": "user", "content": [{"type": "text", "text": "What"}, IMAGE]}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], '"messages" is empty'),
        ("hi", '"messages" must be a list, got str'),
        (["hi"], '"messages[0]" must be an object with a role, got str'),
        ([{"content": "x"}], "\"messages[0].role\" is 'None'"),
        ([{"role": "human", "content": "x"}], "\"messages[0].role\" is 'human'"),
        ([USER, {"role": "user"}], '"messages[1].content" is missing'),
        ([{"role": "user", "content": 7}], '"messages[0].content" must be text or a list'),
        ([{"role": "user", "content": ["x"]}], '"messages[0].content[0]" must be an object'),
        ([{"role": "user", "content": [{"text": "x"}]}], '"messages[0].content[0].type" must'),
        (
            [USER, USER, {"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}],
            '"messages[2].content[0].image_url" must be an object, got str',
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            '"messages[0].content[0].image_url.url" must be text',
        ),
        ([{"role": "tool", "content": "12"}], '"messages[0].tool_call_id" is missing'),
        ([{"role": "assistant", "content": None}], '"messages[0].content" is missing'),
        (
            [{"role": "assistant", "content": None, "tool_calls": ["x"]}],
            '"messages[0].tool_calls" must be a list of objects',
        ),
        ([{"role": "user", "content": "\ud83d"}], '"messages[0].content" holds half'),
        ([{"role": "user", "content": "x", "at": {1}}], '"messages[0].at" must be JSON, got set'),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_wrong_message_is_refused_by_its_place(
    messages: Any,  # noqa: ANN401
    problem: str,
) -> None:
    with pytest.raises(SubmitError) as caught:
        TaskSpec(messages=messages)
    assert problem in str(caught.value)


def test_messages_are_handed_on_as_they_are_and_their_last_user_text_is_the_prompt() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be terse.", "name": "me"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "12"},
        {"role": "user", "content": [{"type": "newer", "x": 1}, {"type": "text", "text": "So?"}]},
    ]
    spec = TaskSpec(messages=messages)
    assert spec.prompt == "So?"
    assert spec.to_messages() == messages
    assert TaskSpec.from_wire(spec.to_wire()) == TaskSpec.recall(spec.to_wire()) == spec
    assert "prompt" not in spec.to_wire()


def test_a_system_message_goes_before_the_rest() -> None:
    assert TaskSpec(messages=[USER], system="s").to_messages()[0]["content"] == "s"
    with pytest.raises(SubmitError, match='"system" is given, and messages hold a system message'):
        TaskSpec(messages=[{"role": "system", "content": "a"}, USER], system="b")


@pytest.mark.parametrize("prompt", ["x", "", "What"])
def test_prompt_and_messages_are_not_both_given(prompt: str) -> None:
    assert TaskSpec(messages=[USER]).prompt == "What"
    with pytest.raises(SubmitError, match='"prompt" and messages are both given'):
        make_spec(prompt=prompt, messages=[USER])
    with pytest.raises(SubmitError, match='"prompt" and messages are both given'):
        TaskSpec.from_wire({"prompt": prompt, "messages": [USER]})


CITY = {"type": "object", "title": "City"}
RIVER = {"type": "object", "title": "River"}


@pytest.mark.parametrize(
    ("changes", "params", "schema"),
    [
        ({}, {"seed": 7, "response_format": "City"}, CITY),
        ({"schema": RIVER}, {"seed": 7, "response_format": "River"}, RIVER),
        ({"schema": None}, {"seed": 7}, None),
        ({"params": None}, {"response_format": "City"}, CITY),
        ({"params": {"stop": "x"}}, {"stop": "x", "response_format": "City"}, CITY),
        ({"params": {"a": 1}, "schema": RIVER}, {"a": 1, "response_format": "River"}, RIVER),
        ({"params": {"response_format": {"type": "text"}}}, {"response_format": "text"}, None),
    ],
    ids=str,
)
def test_the_next_message_takes_what_submit_takes(
    changes: dict[str, Any], params: dict[str, Any], schema: object
) -> None:
    before = make_spec(prompt="One?", params={"seed": 7}, schema=CITY, metadata={"a": 1})
    said = {"messages": [USER]}
    spec, wanted = change_spec(before, CITY, said, changes | {"metadata": None}, call="reply()")
    shown = dict(spec.params)
    if form := shown.get("response_format"):
        shown["response_format"] = form.get("json_schema", {}).get("name", form["type"])
    assert (shown, wanted) == (params, schema)
    assert (spec.metadata, spec.messages) == ({}, [USER])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sytem": "x"}, r"reply\(\) got .*'sytem' \(did you mean 'system'\?\)"),
        ({"max_tokens": 0}, '"max_tokens" is 0'),
        ({"messages": []}, r'reply\(\) makes the "messages" itself'),
        ({"params": 5, "schema": CITY}, '"params" must be an object of model parameters, got int'),
    ],
    ids=str,
)
def test_the_next_message_is_refused_as_submit_refuses(changes: dict[str, Any], told: str) -> None:
    before = make_spec(prompt="One?", schema=CITY)
    with pytest.raises(SubmitError, match=told):
        change_spec(before, CITY, {"messages": [USER]}, changes, call="reply()")


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ([], '"params" must be an object of model parameters, got list'),
        ({"stream": False}, '"params.stream" is set by the kit'),
        ({"n": 2}, '"params.n" must be 1'),
        ({"temperature": 1}, '"params.temperature" is set by the kit: give it as temperature='),
        ({"stop": {"x"}}, '"params.stop" must be JSON, got set'),
    ],
)
def test_a_parameter_of_the_kits_own_is_refused(
    params: Any,  # noqa: ANN401
    problem: str,
) -> None:
    with pytest.raises(SubmitError) as caught:
        TaskSpec(prompt="x", params=params)
    assert problem in str(caught.value)


@pytest.mark.parametrize("wire", [{}, {"prompt": None}, {"Prompt": "hi"}])
def test_a_body_without_a_prompt_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(SubmitError, match='"prompt" is missing'):
        TaskSpec.from_wire(wire)


def test_the_wire_form_does_not_share_the_callers_metadata() -> None:
    metadata = {"tags": ["a"]}
    wire = TaskSpec(prompt="hi", metadata=metadata).to_wire()
    metadata["tags"].append("b")
    assert wire["metadata"] == {"tags": ["a"]}


def test_what_was_asked_stays_when_its_callers_objects_change() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "One?"}]}
    params = {"stop": ["a"]}
    spec = make_spec(messages=[message], params=params)
    message["content"] = "Two?"
    params["stop"].append("b")
    spec.to_messages()[0]["content"].clear()
    asked = [{"role": "user", "content": [{"type": "text", "text": "One?"}]}]
    assert (spec.messages, spec.prompt, spec.params) == (asked, "One?", {"stop": ["a"]})


def test_any_mapping_is_an_object() -> None:
    part = MappingProxyType({"type": "image_url", "image_url": MappingProxyType({"url": "u"})})
    message: ChainMap[str, Any] = ChainMap({"role": "user"}, {"content": [part]})
    params = MappingProxyType({"a": ChainMap({"b": 1})})
    wire = json.loads(json.dumps(make_spec(messages=[message], params=params).to_wire()))
    parts = [{"type": "image_url", "image_url": {"url": "u"}}]
    assert wire["messages"] == [{"role": "user", "content": parts}]
    assert wire["params"] == {"a": {"b": 1}}
    metadata = make_spec(prompt="x", metadata={"a": ChainMap({"b": 1})}).to_wire()["metadata"]
    assert json.dumps(metadata) == '{"a": {"b": 1}}'
