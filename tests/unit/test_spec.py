"""TaskSpec: what is refused, and its wire form."""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longtask_kit.errors import SubmitError
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
        ("prompt", "x" * (MAX_INPUT_BYTES + 1), '"prompt" has 9,900,001 characters'),
        ("prompt", "half \ud83d", '"prompt" holds half a surrogate pair'),
        ("model", "", '"model" is empty'),
        ("model", 4, '"model" must be text'),
        ("model", "m" * 201, '"model" has 201 characters'),
        ("model", "\udc00", '"model" holds half a surrogate pair'),
        ("max_tokens", 0, '"maxTokens" is 0'),
        ("max_tokens", -1, '"maxTokens" is -1'),
        ("max_tokens", 1_000_001, '"maxTokens" is 1000001'),
        ("max_tokens", 10**5000, '"maxTokens" is '),
        ("max_tokens", 1.0, '"maxTokens" must be a whole number, got float'),
        ("max_tokens", True, '"maxTokens" must be a whole number, got bool'),
        ("max_tokens", "100", '"maxTokens" must be a whole number, got str'),
        ("max_tokens", None, '"maxTokens" must be a whole number, got NoneType'),
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
        ("metadata", {"a": ...}, '"metadata" must be a JSON object'),
        ("metadata", {"a": {1, 2}}, '"metadata" must be a JSON object'),
        ("metadata", {"a": b""}, '"metadata" must be a JSON object'),
        ("metadata", {("a", "b"): 1}, '"metadata" must be a JSON object'),
        ("metadata", {"a": math.nan}, '"metadata" must be a JSON object'),
        ("metadata", {"a": [math.inf]}, '"metadata" must be a JSON object'),
        ("metadata", {"a": "half \ud83d"}, '"metadata"'),
        ("metadata", {"\ud83d": 1}, '"metadata"'),
        ("metadata", make_circle(), '"metadata" must be a JSON object'),
        ("metadata", {"a": "x" * 16_384}, '"metadata" has 16,393 bytes'),
    ],
    ids=lambda value: ascii(value)[:30] if not isinstance(value, int) else str(value % 10**7),
)
def test_a_wrong_value_is_refused_by_its_wire_name(field: str, value: object, message: str) -> None:
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
    names = ("model", "maxTokens", "temperature", "system", "handler", "metadata")
    assert TaskSpec.from_wire({"prompt": "hi"} | dict.fromkeys(names)) == TaskSpec(prompt="hi")


@pytest.mark.parametrize("wire", [{}, {"prompt": None}, {"Prompt": "hi"}])
def test_a_body_without_a_prompt_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(SubmitError, match='"prompt" is missing'):
        TaskSpec.from_wire(wire)


def test_the_wire_form_does_not_share_the_callers_metadata() -> None:
    metadata = {"tags": ["a"]}
    wire = TaskSpec(prompt="hi", metadata=metadata).to_wire()
    metadata["tags"].append("b")
    assert wire["metadata"] == {"tags": ["a"]}
