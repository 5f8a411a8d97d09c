"""Stage 4: an attempt that was cut is continued where that is sound, and starts over elsewhere."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

import longtask_kit as lt
from longtask_kit.local.model.prose import split_tokens, write_reply
from longtask_kit.log.events import START, TaskEvent
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.server.attempt import Answer
from longtask_kit.server.handlers import Handler, Keep, TakeUp
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.server.openai_continue import CONTINUES_HEADER, Probe, find_way
from longtask_kit.submit.spec import TaskSpec
from tests.cut_model import CutModel
from tests.delivery import deliver as deliver_once
from tests.flow.deliveries import fold
from tests.serving import serve

pytestmark = pytest.mark.anyio
PROMPT = "Explain tides"
TOKENS = split_tokens(write_reply(PROMPT))
SOME = lt.Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5)


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[CutModel, str]]:
    app = CutModel()
    with serve(app) as url:
        yield app, f"{url}/v1"


@pytest.fixture
async def store(settings: lt.Settings) -> AsyncIterator[Store]:
    opened = Store.open(settings)
    yield opened
    await opened.aclose()


@pytest.fixture
async def run(
    store: Store, settings: lt.Settings, model: tuple[CutModel, str]
) -> AsyncIterator[Callable[..., Any]]:
    """A function that delivers a task a number of times; returns answers and events."""
    app, url = model
    app.asked.clear()
    app.cuts, app.change, app.hides_header = iter(()), lambda body: body, False
    own = settings.model_copy(update={"openai_base_url": url, "openai_api_key": _secret("key")})
    opened: list[OpenAIHandler] = []

    async def deliver(
        wire: dict[str, Any], times: int, handler: Handler | None = None
    ) -> tuple[list[Answer], list[TaskEvent]]:
        if handler is None:
            opened.append(OpenAIHandler(own))
        task_id = new_task_id()
        await store.create(task_id, {"prompt": PROMPT, **wire})
        answers = []
        for number in range(times):
            answers.append(await deliver_once(store, task_id, {"openai": handler or opened[-1]}))
            if number < times - 1:
                assert answers[-1].status_code == 500, answers[-1]
        return answers, await store.read_log(task_id, after=START)

    yield deliver
    for handler in opened:
        await handler.aclose()


def _secret(text: str) -> SecretStr | None:
    return lt.Settings(openai_api_key=text, _env_file=None).openai_api_key


async def test_an_answer_that_is_cut_at_any_event_is_continued_and_paid_once(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    limit = 12
    for events_before in range(limit + 3):  # the role's, one a token, and the end's
        app.cuts = iter([events_before])
        is_whole = events_before == limit + 2
        wire = {"model": "demo-continue", "maxTokens": limit}
        answers, events = await run(wire, 1 if is_whole else 2)
        assert answers[-1].status_code == 200
        state = fold(events)
        assert (state.text, state.status) == ("".join(TOKENS[:limit]), "completed")
        assert state.finish_reason == "length"
        assert state.tokens == limit, "nothing was generated twice"
        has_begun = events_before > 1 and not is_whole
        assert [e.type for e in events].count("continue") == int(has_begun), events_before


async def test_attempts_tell_what_each_took_and_usage_is_what_was_paid(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.cuts = iter([6, 9])  # the first event is the role's
    _, events = await run({"model": "demo-continue", "maxTokens": 40}, 3)
    state = fold(events)
    first, second, third = state.attempts
    assert state.text == "".join(TOKENS[:40])
    assert [a.ended_as for a in state.attempts] == ["retrying", "retrying", "completed"]
    assert first.code == "model_connection"
    assert first.error
    assert [a.tokens for a in state.attempts] == [5, 8, 27]
    assert first.continued is None
    assert second.continued == max(
        e.cursor for e in events if e.type == "content" and e.cursor.attempt == 1
    )
    assert third.continued is not None
    assert third.continued.attempt == 2
    asked = len(split_tokens(PROMPT))
    assert [a.prompt_tokens for a in state.attempts] == [asked, asked + 5, asked + 13]
    assert state.usage is not None
    assert state.usage.prompt_tokens == 3 * asked + 18
    assert state.usage.completion_tokens == 40
    assert state.usage.total_tokens == 3 * asked + 58
    sent = [body["messages"][-1] for body in app.asked]
    assert [m["role"] for m in sent] == ["user", "assistant", "assistant"]
    assert [m["content"] for m in sent[1:]] == ["".join(TOKENS[:5]), "".join(TOKENS[:13])]
    assert [body["max_tokens"] for body in app.asked] == [40, 35, 27]


async def test_the_demo_model_that_does_not_continue_starts_over_without_being_asked(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.cuts = iter([6])
    _, events = await run({"model": "demo", "maxTokens": 20}, 2)
    state = fold(events)
    assert [e.type for e in events if e.type in ("start", "continue")] == ["start", "start"]
    assert state.text == "".join(TOKENS[:20])
    assert [a.continued for a in state.attempts] == [None, None]
    assert len(app.asked) == 2
    asked = len(split_tokens(PROMPT))
    assert [a.prompt_tokens for a in state.attempts] == [asked, asked]
    assert state.usage is not None
    assert (state.usage.prompt_tokens, state.usage.completion_tokens) == (2 * asked, 5 + 20)


async def test_what_stood_at_the_limit_ends_without_another_call(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.cuts = iter([11])  # all ten tokens, but no finish reason
    _, events = await run({"model": "demo-continue", "maxTokens": 10}, 2)
    state = fold(events)
    assert (state.text, state.finish_reason) == ("".join(TOKENS[:10]), "length")
    assert len(app.asked) == 1
    assert state.usage is None, "nobody told what the call took that was cut"


def make_counter(last: int, cuts: Iterator[int]) -> Handler:
    """Return a handler that counts, goes on where it was, and fails behind given numbers."""

    @lt.handler(continues=True)
    async def count(context: lt.TaskContext) -> AsyncIterator[Any]:
        cut = next(cuts, None)
        for number in range(len(context.text.split()), last):
            if number == cut:
                raise lt.RetryableError("cut", code="cut")
            yield f"{number} "

    return count


async def test_a_handler_that_continues_gets_what_stands_and_appends(
    run: Callable[..., Any],
) -> None:
    whole = "".join(f"{n} " for n in range(6))
    for cut in range(6):
        _, events = await run({}, 2, make_counter(6, iter([cut])))
        state = fold(events)
        assert state.text == whole, cut
        assert [a.tokens for a in state.attempts] == [cut, 6 - cut]
        assert state.attempts[1].continued is not None or cut == 0


async def test_one_that_is_cut_again_and_again_goes_on_each_time(run: Callable[..., Any]) -> None:
    _, events = await run({}, 6, make_counter(6, itertools.count(1)))
    state = fold(events)
    assert state.text == "".join(f"{n} " for n in range(6))
    assert (state.attempt, state.seams) == (6, 5)
    assert [a.tokens for a in state.attempts] == [1] * 6


def make_repeater(again: str, *, from_char: int) -> Handler:
    """Return a source that says `one two` and breaks; then it goes on from an earlier place."""

    async def say(context: lt.TaskContext) -> AsyncIterator[Any]:
        yield Keep("own")
        if context.standing is not None:
            yield TakeUp({"content": from_char})
            for character in again:
                yield character
            yield lt.Outcome(usage=SOME)
        elif context.attempt == 1:
            yield "one two"
            raise lt.RetryableError("cut", code="cut")
        else:
            yield "another answer"
            yield lt.Outcome(usage=SOME)

    return say


async def test_what_a_source_repeats_is_swallowed_while_it_is_equal(
    run: Callable[..., Any],
) -> None:
    _, events = await run({}, 2, make_repeater("two three", from_char=4))
    assert fold(events).text == "one two three"
    own = "".join(e.data for e in events if e.type == "content" and e.cursor.attempt == 2)
    assert own == " three"


@pytest.mark.parametrize("again", ["twx three", "tw"])
async def test_at_the_first_difference_the_attempt_starts_over(
    run: Callable[..., Any], again: str
) -> None:
    _, events = await run({}, 2, make_repeater(again, from_char=4))
    state = fold(events)
    assert state.text == "another answer"
    second = [e.type for e in events if e.cursor.attempt == 2]
    assert second[:3] == ["status", "continue", "start"]
    assert state.attempts[1].continued is None
    assert [a.prompt_tokens for a in state.attempts] == [2, 2 + 3], "the first two, and `one two`"
    assert state.usage is not None
    assert state.usage.completion_tokens == 1 + len(again[: again.find("x") + 1] or again) + 3


async def test_an_attempt_that_yields_nothing_but_empty_text_is_not_handed_on(
    store: Store,
) -> None:
    @lt.handler(continues=True)
    async def wait(_: lt.TaskContext) -> AsyncIterator[str]:
        while True:
            yield ""
            await asyncio.sleep(0.01)

    task_id = new_task_id()
    await store.create(task_id, {"prompt": PROMPT, "handler": "wait"})
    answer = await deliver_once(store, task_id, {"wait": wait}, max_duration_s=0.2)
    assert answer.status_code == 489, "else an attempt that adds nothing would follow another"


PAIRS = ["one ", "\ud83d", "\ude00", " two", "\ud83d", "\ude01", " end"]


@pytest.mark.parametrize("cut", range(1, len(PAIRS)))
async def test_a_cut_anywhere_around_a_surrogate_pair_costs_no_second_call(
    run: Callable[..., Any], cut: int
) -> None:
    calls = 0

    async def say(context: lt.TaskContext) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        at = 0
        if context.standing is not None:
            at = context.standing.place["at"]
            yield TakeUp(context.standing.stood, is_paid_again=False)
        for number, piece in enumerate(PAIRS[at:], at):
            if calls == 1 and number == cut:
                raise lt.RetryableError("cut", code="cut")
            yield Keep("own", {"at": number})
            yield piece

    _, events = await run({}, 2, say)
    assert fold(events).text == "one \U0001f600 two\U0001f601 end"
    assert calls == 2, "what stood was taken up"


async def test_what_a_handler_calls_replayed_is_paid_as_all_it_says(
    run: Callable[..., Any],
) -> None:
    async def say(context: lt.TaskContext) -> AsyncIterator[Any]:
        yield lt.DataEvent("replayed", {"moves": 3})
        yield "one"
        if context.attempt == 1:
            raise lt.RetryableError("cut")
        yield lt.Outcome(usage=SOME)

    _, events = await run({}, 2, say)
    state = fold(events)
    assert state.data["replayed"] == {"moves": 3}
    assert state.usage is not None
    assert state.usage.completion_tokens == 1 + 3, "the first attempt's, too"


async def test_an_attempt_that_fails_before_it_goes_on_leaves_the_text_to_the_next(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.cuts = iter([6, 0])
    _, events = await run({"model": "demo-continue", "maxTokens": 20}, 3)
    state = fold(events)
    assert state.text == "".join(TOKENS[:20])
    assert state.seams in (1, 2)
    assert state.tokens == 20


@pytest.fixture(scope="module")
def serving(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    counters: dict[str, Handler] = {}

    @lt.handler(continues=True)
    async def count(context: lt.TaskContext) -> AsyncIterator[Any]:
        own = counters.setdefault(context.task_id, make_counter(30, iter([10, 20])))
        said: Any = own(context)
        async for item in said:
            yield item

    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"count": count})
        yield kit


def test_readers_keep_their_text_across_a_seam(serving: lt.Kit) -> None:
    task = serving.submit("count", handler="count", retries=5)
    deltas = [*task]
    assert "".join(deltas) == "".join(f"{n} " for n in range(30))
    assert not any(delta.is_restart for delta in deltas)
    assert {delta.attempt for delta in deltas} == {1, 2, 3}
    assert [a.tokens for a in task.attempts] == [10, 10, 10]
    again = serving.attach(task.id)
    assert again.result(30) == task.text
    assert again.snapshot().seams == 2


def test_a_retry_by_hand_starts_over(serving: lt.Kit) -> None:
    task = serving.submit("count", handler="count", retries=0)
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    assert task.text == "".join(f"{n} " for n in range(10))
    task.retry()
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    assert task.text == "".join(f"{n} " for n in range(20))
    assert [a.continued for a in task.attempts] == [None, None]


def continue_as_vllm(body: dict[str, Any]) -> dict[str, Any]:
    """Have the flags obeyed by whatever model is asked for."""
    return body | {"model": "demo-continue"}


def reopen_turn(body: dict[str, Any]) -> dict[str, Any]:
    """Have the flags passed over, as servers do that don't know them: the answer begins anew."""
    return body | {"model": "demo"}


def refuse_flags(body: dict[str, Any]) -> dict[str, Any]:
    """Have the flags refused, as servers do that check what they are sent."""
    wrong: dict[str, Any] = {"messages": []} if "continue_final_message" in body else {}
    return body | {"model": "demo"} | wrong


def count_probes(app: CutModel) -> int:
    return sum("twenty" in str(body["messages"][0]["content"]) for body in app.asked)


@pytest.mark.parametrize(
    ("behaves", "texts", "probes"),
    [
        (continue_as_vllm, ["start", "continue"], 2),
        (reopen_turn, ["start", "start"], 2),
        (refuse_flags, ["start", "start"], 2),
    ],
)
async def test_a_server_is_asked_after_a_cut_and_believed_only_if_its_answers_agree(
    run: Callable[..., Any],
    model: tuple[CutModel, str],
    behaves: Callable[[dict[str, Any]], dict[str, Any]],
    texts: list[str],
    probes: int,
) -> None:
    app, _ = model
    app.hides_header, app.change, app.cuts = True, behaves, iter([6])
    _, events = await run({"model": "own", "maxTokens": 20}, 2)
    state = fold(events)
    assert state.text == "".join(TOKENS[:20]), "nothing doubled, nothing missing"
    assert [e.type for e in events if e.type in ("start", "continue")] == texts
    assert count_probes(app) == probes


async def test_an_answer_that_is_not_cut_costs_no_probe(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.hides_header, app.change = True, continue_as_vllm
    await run({"model": "own", "maxTokens": 20}, 1)
    assert len(app.asked) == 1


async def test_a_server_is_asked_once_for_each_model(
    store: Store, settings: lt.Settings, model: tuple[CutModel, str]
) -> None:
    app, url = model
    app.asked.clear()
    app.hides_header, app.change = True, continue_as_vllm
    own = settings.model_copy(update={"openai_base_url": url, "openai_api_key": _secret("key")})
    handler = OpenAIHandler(own)
    for name in ("one", "one", "other"):
        assert await handler.can_continue(TaskSpec(prompt="x", model=name))
    assert count_probes(app) == 4
    await handler.aclose()


async def test_what_looks_at_its_own_answer_is_not_continued_as_a_prompt(
    run: Callable[..., Any], model: tuple[CutModel, str]
) -> None:
    app, _ = model
    app.cuts = iter([6])
    wire = {"model": "demo-continue", "maxTokens": 20, "params": {"frequency_penalty": 0.5}}
    _, events = await run(wire, 2)
    assert [e.type for e in events if e.type in ("start", "continue")] == ["start", "start"]
    assert fold(events).text == "".join(TOKENS[:20])


@pytest.mark.parametrize("continues", [True, False])
async def test_the_time_of_an_answer_is_that_of_all_attempts_whose_tokens_its_usage_counts(
    store: Store, *, continues: bool
) -> None:
    @lt.handler(continues=continues)
    async def speak(context: lt.TaskContext) -> AsyncIterator[Any]:
        yield f"said by {context.attempt} "
        if context.attempt == 1:
            await asyncio.sleep(0.05)  # the pace of a model
            yield "and by it once more "
            raise lt.RetryableError("cut", code="cut")
        yield lt.Outcome(usage=SOME)

    task_id = new_task_id()
    await store.create(task_id, {"prompt": PROMPT, "handler": "speak"})
    for status_code in (500, 200):
        assert (await deliver_once(store, task_id, {"speak": speak})).status_code == status_code
    events = await store.read_log(task_id, after=START)
    assert ("continue" in [event.type for event in events]) is continues
    first = [event.time for event in events if event.cursor.attempt == 1]
    texts = [e for e in events if e.cursor.attempt == 1 and e.type == "content"]
    record = await store.read_task(task_id)
    assert record is not None
    assert record.usage is not None
    stored = sum(event.tokens for event in texts)
    assert record.usage.completion_tokens == SOME.completion_tokens + stored
    assert record.run_ms is not None
    assert record.run_ms >= 1000 * (texts[-1].time - first[0]).total_seconds()


@pytest.mark.parametrize(
    ("url", "said", "way"),
    [
        (None, {}, ""),  # api.openai.com: never asked
        ("https://api.openai.com/v1", {}, ""),
        ("http://127.0.0.1:8000/v1", {}, "?"),
        ("http://127.0.0.1:8000/v1", {CONTINUES_HEADER: "true"}, "raw"),
        ("http://127.0.0.1:8000/v1", {CONTINUES_HEADER: "false"}, ""),
    ],
)
def test_who_may_be_asked_follows_from_address_and_answer(
    url: str | None, said: dict[str, str], way: str
) -> None:
    assert find_way(TaskSpec(prompt="x"), url, said) == way


def test_a_probe_tells_who_continues_from_who_begins_again_or_repeats() -> None:
    probe, whole = Probe("own"), "One, two, three, four, five, six"
    head = probe.cut(whole)
    assert head == "One, two, three,"
    rest = whole[len(head) :]
    assert probe.agrees(whole, head, rest)
    assert probe.agrees(whole, head, rest[:8])
    assert not probe.agrees(whole, head, whole), "it began again"
    assert not probe.agrees(whole, head, head + rest), "it repeated what it was given"
    assert not probe.agrees(whole, head, ""), "it said nothing"
    assert probe.cut("One") is None
