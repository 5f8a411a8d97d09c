"""Stage 8: a group stops when its budget is spent, and goes on when that is raised."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.client.prices import choose_price
from longtask_kit.log.attempts import Attempt
from longtask_kit.log.keys import group_key, group_rows_key, new_group_id, task_key
from longtask_kit.log.many import ManyStore
from longtask_kit.log.store import Store
from longtask_kit.log.waiting import sweep
from longtask_kit.server.budget import estimate_lost
from longtask_kit.server.limiter import Estimate
from longtask_kit.widgets.group_display import GroupRows, read_facts
from longtask_kit.widgets.group_saved import make_bundle
from tests.serving import serve
from tests.wait import wait_until

pytestmark = pytest.mark.anyio

calls: Counter[str] = Counter()
under_way: set[str] = set()
peak = 0  # how many calls were under way at once


async def paid(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Answer for ten tokens."""
    global peak
    prompt = context.spec.prompt
    calls[prompt] += 1
    under_way.add(prompt)
    peak = max(peak, len(under_way))
    try:
        await asyncio.sleep(0.02)
        yield prompt.upper()
        yield lt.Outcome(usage=lt.Usage(prompt_tokens=4, completion_tokens=6, total_tokens=10))
    finally:
        under_way.discard(prompt)


async def think(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Think for a hundred tokens, and break off before the answer."""
    calls[context.spec.prompt] += 1
    yield lt.Delta("reasoning", "Hm, hm." * 50)
    raise lt.RetryableError("The connection broke.", retry_after_s=0)


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"paid": paid, "think": think})
        yield kit


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    global peak
    calls.clear()
    peak = 0


def test_a_group_stops_at_its_budget_and_goes_on_paying_nothing_twice(
    kit: lt.Kit, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"budget {i}" for i in range(40)]
    group = kit.map(rows, handler="paid", budget_tokens=150, parallelism=8)
    assert "budget 150 tokens; an estimate of all rows: " in capsys.readouterr().out
    with pytest.raises(lt.TaskIncompleteError, match=r"budget of 150 tokens is spent.*resume") as e:
        group.results(60)
    assert e.value.finish_reason == "budget"
    assert 130 <= group.usage.total_tokens <= 150 + 10 * peak
    done = group.counts["done"]
    assert group.counts == {"done": done, "waiting": 40 - done}
    assert "incomplete" in repr(group)
    facts = read_facts(group)
    stop = f"stopped at the budget, {40 - done} rows wait: group.resume(budget_tokens=…) goes on"
    assert (facts.word, facts.to_wire()["notice"]) == ("stopped at the budget", stop)
    for form in make_bundle(facts, GroupRows(group).read()).values():
        assert stop in form
    kept = group.results(60, errors="return")
    assert sum(isinstance(row, lt.TaskIncompleteError) for row in kept) == 40 - done
    assert sum(error is not None for error in group.errors) == 40 - done
    parked = next(t for t in group.tasks if t and t.status == "pending")
    assert parked.snapshot().code == "budget"
    wait_until(lambda: redis.hget(task_key(parked.id), "message_id") is None)
    assert kit.attach_group(group.id)._record.code == "budget"
    spent = f"{group.usage.total_tokens:,} tokens"
    with pytest.raises(lt.SubmitError, match=f"100 tokens leaves this group nothing.*{spent}"):
        group.resume(budget_tokens=100)
    assert group.counts["waiting"] == 40 - done
    group.resume(budget_tokens=10_000)
    assert group.results(60) == [row.upper() for row in rows]
    assert set(calls.values()) == {1}
    assert kit.attach_group(group.id)._record.code is None


def test_reasoning_that_broke_off_is_spent_too(kit: lt.Kit) -> None:
    group = kit.map(["deep"], handler="think", budget_tokens=100, retries=3)
    with pytest.raises(lt.TaskIncompleteError, match="budget of 100 tokens is spent"):
        group.results(60)
    assert calls["deep"] == 1


async def test_a_parked_row_is_neither_lost_nor_failed(kit: lt.Kit, settings: lt.Settings) -> None:
    group = await asyncio.to_thread(
        kit.map, [f"parked {i}" for i in range(5)], handler="paid", budget_tokens=1
    )
    await asyncio.to_thread(group.results, 60, errors="return")
    store = Store.open(settings)
    for _ in range(5):
        await sweep(store, deadline_s=0.01)
    parked = [t for t in group.tasks if t and t.status == "pending"]
    assert parked
    assert parked[0].cancel() == "cancelled"
    await store.aclose()


def test_a_group_lives_on_while_it_runs_and_never_without_its_budget(
    kit: lt.Kit, redis: Redis
) -> None:
    """A run may take longer than the time to live, which counts from its last sign of life."""
    group = kit.map(
        [f"lives {i}" for i in range(4)], handler="paid", name="lives", budget_tokens=1, ttl_s=60
    )
    with pytest.raises(lt.TaskIncompleteError):
        group.results(60)
    parked = group._find_parked()
    [pointer] = [key for key in redis.keys("longtask:group-name:*") if redis.get(key) == group.id]
    keys = [group_key(group.id), group_rows_key(group.id), pointer]

    def age() -> None:
        for key in keys:
            redis.expire(key, 20)

    def lives() -> bool:
        return all(redis.ttl(key) > 50 for key in keys)

    def retry(kit: lt.Kit) -> None:
        kit._door.ask(lambda backend: backend.groups.retry(parked))

    age()
    group.resume(budget_tokens=12)
    assert lives(), "whoever resumes it"
    with pytest.raises(lt.TaskIncompleteError):
        group.results(60)
    age()
    with lt.connect(settings=kit.settings, quiet=True) as other:
        other.serve({"paid": paid})
        retry(other)
        wait_until(lives)
        wait_until(lambda: len(group._find_parked()) == len(parked))
        redis.delete(group_key(group.id))  # it expired all the same
        asked = calls.total()
        retry(other)
        task = other.attach(parked[0])
        wait_until(lambda: "not there any more" in (task.snapshot().error or ""))
        assert calls.total() == asked, "nobody knows what it may spend"
    assert not redis.exists(group_key(group.id))
    again = kit.map([f"lives {i}" for i in range(4)], handler="paid", name="lives")
    assert len(again.results(60)) == 4


async def test_what_is_reserved_stands_no_longer_than_its_length_when_the_clock_goes_back(
    kit: lt.Kit, redis: Redis
) -> None:
    assert kit.settings is not None
    store, group_id = ManyStore.open(kit.settings), new_group_id()
    key, hour_ms = group_key(group_id), 3_600_000
    redis.hset(key, "budget", "10")
    redis.expire(key, 60)
    assert await store.budgets.ask(group_id, "dead", prompt=1, answer=20) == "go"
    amount, ends, _ = (redis.hget(key, "held:dead") or "").split()
    redis.hset(key, "held:dead", f"{amount} {int(ends) + hour_ms}")
    assert await store.budgets.ask(group_id, "waits", prompt=1, answer=20) == "wait"
    amount, renewed = (redis.hget(key, "held:dead") or "").split()
    seconds, _ = redis.time()
    assert int(renewed) < seconds * 1000 + hour_ms
    await store.aclose()


async def test_what_an_attempt_took_that_died_is_spent_once(kit: lt.Kit, redis: Redis) -> None:
    assert kit.settings is not None
    store, group_id = ManyStore.open(kit.settings), new_group_id()
    key, guess = group_key(group_id), {"prompt": 5, "answer": 60}
    redis.hset(key, "budget", "100")
    redis.expire(key, 60)

    async def ask(task_id: str, attempt: int, lost: tuple[int, int]) -> str:
        return await store.budgets.ask(group_id, task_id, **guess, attempt=attempt, lost=lost)

    assert await ask("killed", 1, (0, 0)) == "go"
    assert await ask("killed", 2, (5, 40)) == "go"
    assert await ask("killed", 2, (5, 40)) == "go", "asked again, as the answer was lost"
    assert redis.hmget(key, "counted", "answered") == ["5", "40"]
    await store.budgets.settle(group_id, "killed", prompt=5, counted=(5, 20))
    assert await ask("killed", 3, (5, 20)) == "stop", "it has told what it took"
    assert redis.hmget(key, "counted", "answered") == ["10", "60"]
    await store.aclose()


def test_what_an_attempt_before_took_is_what_its_log_says() -> None:
    began = datetime(2026, 11, 29, tzinfo=UTC)
    attempts = [Attempt(number=1, tokens=40, began=began), Attempt(number=2, began=began)]
    assert estimate_lost(Estimate(7, 100), attempts, before=2) == (7, 40)
    assert estimate_lost(Estimate(7, 100), attempts, before=3) == (0, 0), "it got no answer"
    assert estimate_lost(Estimate(7, 100), [], before=1) == (0, 0)
    background = Estimate(0, 60, before=(7, 40), reads_on=True)
    assert estimate_lost(background, attempts, before=2) == (7, 40), "it is one run"


def test_the_same_cell_with_a_higher_budget_goes_on(kit: lt.Kit) -> None:
    rows = [f"cell {i}" for i in range(20)]
    for name in ("named", ""):
        first = kit.map([name + row for row in rows], handler="paid", name=name, budget_tokens=60)
        with pytest.raises(lt.TaskIncompleteError):
            first.results(60)
        again = kit.map([name + row for row in rows], handler="paid", name=name)
        assert len(again.results(60)) == 20
    assert set(calls.values()) == {1}


def test_a_budget_in_money_needs_prices(kit: lt.Kit) -> None:
    with pytest.raises(lt.ConfigError, match="needs `prices`"):
        kit.map(["x"], budget_cost=1.0)
    with pytest.raises(lt.ConfigError, match="both"):
        kit.map(["x"], budget_cost=1.0, budget_tokens=1, prices=(1, 1))
    group = kit.map(
        [f"money {i}" for i in range(20)],
        handler="paid",
        budget_cost=0.001,
        prices=(10, 20),  # 160 millionths a call
        parallelism=4,
    )
    with pytest.raises(lt.TaskIncompleteError, match=r"budget of 0\.001 is spent"):
        group.results(60)
    assert group.cost is not None
    assert 0.0008 <= group.cost <= 0.001 + 0.00016 * peak
    with pytest.raises(lt.ConfigError, match="needs a budget"):
        group.resume()
    group.resume(budget_cost=1.0)
    assert len(group.results(60)) == 20


@pytest.mark.parametrize(
    "prices",
    [(math.nan, 1), (1, math.inf), (-1, 2), "12", ("cheap", 1), (1, 2, 3), {"demo": (1, -2)}],
    ids=str,
)
def test_what_are_no_prices_is_refused_where_they_are_given(
    kit: lt.Kit,
    settings: lt.Settings,
    prices: Any,  # noqa: ANN401 - wrong ones
) -> None:
    with pytest.raises(lt.ConfigError, match=r"`prices`.*expected \(in, out\)"):
        kit.map(["x"], model="demo", prices=prices)
    with pytest.raises(lt.ConfigError, match=r"`prices`.*expected \(in, out\)"):
        lt.connect(settings=settings, prices=prices, quiet=True)


def test_prices_in_text_are_the_numbers_that_it_says() -> None:
    assert choose_price(("0.15", "0.60"), "demo") == (0.15, 0.6)  # type: ignore[arg-type]
    assert choose_price({"demo": (1, 2)}, "another") is None


@pytest.mark.parametrize("cost", [math.inf, math.nan, True, 0, -1, 10**400, "1"], ids=repr)
def test_what_is_no_budget_is_refused(kit: lt.Kit, cost: Any) -> None:  # noqa: ANN401
    with pytest.raises(lt.ConfigError, match=r"`budget_cost` is .*expected a number above 0"):
        kit.map(["x"], budget_cost=cost, prices=(1, 1))


def test_a_group_without_a_budget_is_not_given_one_that_nothing_heeds(kit: lt.Kit) -> None:
    group = kit.map(["free"], handler="paid")
    assert group.results(30) == ["FREE"]
    with pytest.raises(lt.SubmitError, match="has no budget"):
        group.resume(budget_tokens=100)
    assert not kit.attach_group(group.id)._record.options.get("budgetTokens")


def test_tokens_that_were_spent_count_in_money_too(kit: lt.Kit) -> None:
    rows = [f"both {i}" for i in range(20)]
    group = kit.map(rows, handler="paid", budget_tokens=60, prices=(10, 20), parallelism=2)
    with pytest.raises(lt.TaskIncompleteError):
        group.results(60)
    with pytest.raises(lt.SubmitError, match=r"0\.0001 leaves this group nothing.*spent 0\.00"):
        group.resume(budget_cost=0.0001)
    group.resume(budget_cost=0.002)  # 160 millionths a call, and twenty calls
    with pytest.raises(lt.TaskIncompleteError, match=r"budget of 0\.002 is spent"):
        group.results(60)
    assert group.cost is not None
    assert 0.0018 <= group.cost <= 0.002 + 0.00016 * peak


def test_over_http_a_group_is_resumed_as_well(kit: lt.Kit) -> None:
    settings = kit.settings
    assert settings is not None
    keyed = settings.model_copy(update={"api_key": SecretStr("the-key")})
    with (
        serve(lt.create_app(keyed, handlers={"paid": paid})) as url,
        lt.connect(url, api_key="the-key", quiet=True) as friend,
    ):
        group = friend.map([f"http {i}" for i in range(10)], handler="paid", budget_tokens=30)
        with pytest.raises(lt.TaskIncompleteError):
            group.results(60)
        for none in ({}, {"budgetTokens": 100, "budgetCost": 1.0}):
            answer = httpx.post(
                f"{url}/api/groups/{group.id}/resume",
                json=none,
                headers={"Authorization": "Bearer the-key"},
            )
            assert (answer.status_code, "expected one of them" in answer.text) == (400, True)
        group.resume(budget_tokens=1000)
        assert len(group.results(60)) == 10


def test_many_waits_are_said_before(
    kit: lt.Kit, settings: lt.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    group = kit.map([f"slow {i}" for i in range(30)], handler="paid", rpm=6, parallelism=16)
    told = capsys.readouterr().out
    assert "a row may wait 160 s for its turn" in told
    assert "parallelism=2 avoids that" in told
    group.cancel()
    options: dict[str, Any] = {"handler": "paid", "max_tokens": 100, "parallelism": 8}
    kit.map(["x" * 343] * 9, reuse=False, tpm=1200, **options).cancel()
    told = capsys.readouterr().out
    assert "at 1,200 tokens a minute a row may wait 80 s for its turn" in told
    assert "parallelism=2 avoids that" in told
    kit.map(["x" * 343] * 9, reuse=False, tpm=12_000, rpm=1000, **options).cancel()
    assert "may wait" not in capsys.readouterr().out
    everybodys = settings.model_copy(update={"rpm": 6, "limit_hold_s": 40.0})
    with lt.connect(settings=everybodys, quiet=True) as limited:
        limited.map(["y"] * 8, reuse=False, rpm=60, **options).cancel()
    told = capsys.readouterr().out
    assert "at 6 requests a minute a row may wait 80 s for its turn: beyond 40 s" in told
