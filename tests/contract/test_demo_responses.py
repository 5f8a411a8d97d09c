"""The demo models at `/v1/responses`, as the official `openai` SDK sees them."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from longtask_kit.local.model.app import create_model_app
from longtask_kit.local.model.prose import split_tokens, write_reply
from longtask_kit.settings import DEMO_LABEL
from tests.serving import serve
from tests.wait import wait_until

KEY = "demo-key-for-tests"
PROMPT = "Explain tides"
TEXT = write_reply(PROMPT)


def connect(*, stream_again_s: float) -> Iterator[openai.OpenAI]:
    app = create_model_app(
        api_key=KEY, label=DEMO_LABEL, tokens_per_s=50_000, stream_again_s=stream_again_s
    )
    with serve(app) as url, openai.OpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    yield from connect(stream_again_s=300.0)


@pytest.fixture(scope="module")
def forgetful() -> Iterator[openai.OpenAI]:
    """A service where it is always too late to read on."""
    yield from connect(stream_again_s=0.0)


def begin(client: openai.OpenAI, model: str = "demo", **options: Any) -> list[Any]:  # noqa: ANN401
    """Return all events of a new response in the background."""
    asked: Any = {"model": model, "input": PROMPT, "background": True, **options}
    with client.responses.create(stream=True, **asked) as stream:
        return [*stream]


def join(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


def test_a_stream_has_numbered_events_and_ends_with_the_whole(client: openai.OpenAI) -> None:
    events = begin(client)
    assert [e.sequence_number for e in events] == [*range(len(events))]
    assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert (last.type, last.response.output_text) == ("response.completed", TEXT)
    assert last.response.usage.output_tokens == len(split_tokens(TEXT))
    assert join(events) == TEXT


def test_behind_any_number_it_is_read_on_and_nothing_comes_twice(client: openai.OpenAI) -> None:
    events = begin(client, max_output_tokens=15)
    for number in range(-1, len(events)):
        with client.responses.retrieve(
            events[0].response.id, stream=True, starting_after=number
        ) as stream:
            assert [*stream] == events[number + 1 :]


def test_it_is_asked_for_until_it_has_ended(client: openai.OpenAI) -> None:
    asked: Any = {"model": "demo@200", "input": PROMPT, "background": True}
    begun = client.responses.create(**asked)
    assert begun.status == "in_progress"
    wait_until(lambda: client.responses.retrieve(begun.id).status == "completed")
    assert client.responses.retrieve(begun.id).output_text == TEXT


def test_a_limit_makes_it_incomplete(client: openai.OpenAI) -> None:
    [*_, last] = begin(client, max_output_tokens=5)
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_a_cancel_ends_it_for_whoever_reads(client: openai.OpenAI) -> None:
    asked: Any = {"model": "demo@20", "input": PROMPT, "background": True}
    with client.responses.create(stream=True, **asked) as stream:
        events = iter(stream)
        response_id = next(events).response.id
        assert client.responses.cancel(response_id).status == "cancelled"
        assert len([*events]) < len(split_tokens(TEXT))
    assert client.responses.retrieve(response_id).status == "cancelled"
    assert client.responses.cancel(response_id).status == "cancelled"


def test_what_is_too_old_is_not_streamed_again_but_told(forgetful: openai.OpenAI) -> None:
    events = begin(forgetful)
    response_id = events[0].response.id
    with pytest.raises(openai.BadRequestError, match="too old"):
        forgetful.responses.retrieve(response_id, stream=True, starting_after=3)
    assert forgetful.responses.retrieve(response_id).output_text == TEXT


def test_without_background_it_is_one_answer_that_nobody_keeps(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="demo", input=[{"role": "user", "content": PROMPT}])
    assert (whole.status, whole.output_text) == ("completed", TEXT)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "demo", "input": ""}, openai.BadRequestError),
        ({"model": "demo-tools", "input": "x"}, openai.BadRequestError),
        ({"model": "gpt-unheard-of", "input": "x"}, openai.NotFoundError),
        ({"model": "demo-500", "input": "x"}, openai.InternalServerError),
    ],
)
def test_what_can_not_be_answered_is_refused(
    client: openai.OpenAI, asked: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.responses.create(**asked)


def test_reasoning_and_refusals_have_events_of_their_own(client: openai.OpenAI) -> None:
    types = {e.type for e in begin(client, "demo-reason")}
    assert "response.reasoning_summary_text.delta" in types
    assert "response.refusal.delta" in {e.type for e in begin(client, "demo-refuse")}


def test_the_same_idempotency_key_finds_the_same_response(client: openai.OpenAI) -> None:
    def ask(key: str, prompt: str = PROMPT) -> str:
        asked: Any = {"model": "demo", "input": prompt, "background": True}
        return str(client.responses.create(extra_headers={"Idempotency-Key": key}, **asked).id)

    first = ask("one")
    assert ask("one") == first
    assert ask("other") != first
    with pytest.raises(openai.UnprocessableEntityError, match="another request"):
        ask("one", "Explain rivers")
