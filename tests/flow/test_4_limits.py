"""Stage 4: requests and tokens a minute. The bucket itself, on a clock that the test turns."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longtask_kit.log.events import START
from longtask_kit.log.limits import Call, LimitStore, Rates, Reserved, name_bucket
from longtask_kit.server.continuation import OWN, Standing
from longtask_kit.server.limiter import Estimate, estimate_call, read_duration, read_rates
from longtask_kit.server.openai_background import RESPONSE
from longtask_kit.server.openai_continue import IDS, RAW
from longtask_kit.submit.spec import TaskSpec
from tests.chaos.own_valkey import run_valkey
from tests.limit_world import MINUTE_MS, DirectRedis, World

pytestmark = pytest.mark.anyio

_names = itertools.count()


@pytest.fixture(scope="module")
def direct() -> Iterator[DirectRedis]:
    with (
        tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as folder,
        run_valkey(Path(folder)) as valkey,
    ):
        redis = DirectRedis(valkey.url)
        yield redis
        redis.close()


@pytest.fixture
def make_world(direct: DirectRedis) -> Callable[..., World]:
    def make(**values: Any) -> World:  # noqa: ANN401 - World's own
        world = World(LimitStore(direct, read_clock_ms=lambda: world.now), **values)
        world.bucket = name_bucket("test", str(next(_names)))
        return world

    return make


EVEN = {"a": 16, "b": 16}
UNEVEN = {"wide": 48, "narrow": 6}
# What the model takes, how late all is, and how many calls of each group wait at once.
SETTINGS = [
    ({"rpm": 60, "tpm": 20_000}, EVEN),
    ({"rpm": 60, "tpm": 100_000}, EVEN),
    ({"rpm": 300, "tpm": 10**6}, EVEN),
    ({"rpm": 200, "tpm": 20_000}, UNEVEN),
]
MORE_SETTINGS = [
    ({"rpm": 1000, "tpm": 20_000}, EVEN),
    ({"rpm": 600, "tpm": 200_000}, {"a": 64, "b": 64}),
    ({"rpm": 60, "tpm": 20_000, "lag": 50}, EVEN),
    ({"rpm": 60, "tpm": 20_000, "lag": 1000}, EVEN),
    ({"rpm": 60, "tpm": 20_000}, {"a": 16, "b": 16, "c": 16}),
    ({"rpm": 120, "tpm": 30_000}, {"a": 4, "b": 4}),
    ({"rpm": 60, "tpm": 20_000}, UNEVEN),
    ({"rpm": 60, "tpm": 100_000}, UNEVEN),
    ({"rpm": 60, "tpm": 20_000}, {"a": 16}),
]


def _describe(setting: tuple[dict[str, int], dict[str, int]]) -> str:
    values, parallelism = setting
    told = [f"{name} {value:,}" for name, value in values.items()]
    return f"{', '.join(told)}; {':'.join(map(str, parallelism.values()))} calls"


@pytest.mark.parametrize(
    ("setting", "seed"),
    [
        *((setting, 1) for setting in SETTINGS),
        *(
            pytest.param(setting, seed, marks=pytest.mark.thorough)
            for setting in [*SETTINGS, *MORE_SETTINGS]
            for seed in (2, 3, 4)
        ),
    ],
    ids=lambda value: value if isinstance(value, int) else _describe(value),
)
async def test_a_limit_is_used_up_kept_and_shared(
    make_world: Callable[..., World],
    record_property: Callable[[str, object], None],
    setting: tuple[dict[str, int], dict[str, int]],
    seed: int,
) -> None:
    """Whoever asks with more calls at once gets no more for it."""
    values, parallelism = setting
    world = make_world(**values, seed=seed)
    rows = 500 // len(parallelism)
    await world.run(dict.fromkeys(parallelism, rows), parallelism=parallelism)
    assert len(world.served) == rows * len(parallelism)
    refused, shares = len(world.refused) / len(world.served), world.shares(parallelism)
    counted = (
        f"{world.rate():.1%} of the possible rate, {refused:.1%} refused, shares "
        f"{min(shares.values()):.0%} to {max(shares.values()):.0%} of the fair one"
    )
    record_property("chaos", (f"limits: {_describe(setting)}, seed {seed}", counted))
    assert world.rate() >= 0.95
    assert refused <= 0.01
    assert all(0.9 <= share <= 1.1 for share in shares.values())


@pytest.mark.parametrize("wrong_by", [3.0, 1 / 3])
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(s, marks=pytest.mark.thorough) for s in (2, 3))]
)
async def test_an_estimate_that_is_wrong_recovers_within_a_minute(
    make_world: Callable[..., World], wrong_by: float, seed: int
) -> None:
    world = make_world(wrong_by=wrong_by, seed=seed)
    await world.run({"a": 250, "b": 250})
    begun = world.served[0][0]
    assert len([ms for ms in world.refused if ms > begun + MINUTE_MS]) <= 5
    assert world.rate(after_ms=MINUTE_MS) >= 0.95


async def test_a_refusal_is_heeded_and_success_lets_the_rate_grow_back(
    make_world: Callable[..., World],
) -> None:
    """The model takes half of what is set."""
    world = make_world(rpm=30, tpm=10_000)
    await world.run({"a": 200}, rpm=60, tpm=20_000)
    assert len(world.served) == 200
    assert len(world.refused) < 40
    assert world.rate() > 0.7


async def count_calls(world: World, limits: dict[str, int], *, minutes: int = 1) -> Counter[str]:
    """Ask for groups, by their rpm, twice a second, and return how many calls each may make."""
    made: Counter[str] = Counter()
    for at in range(120 * minutes):
        for group, rpm in limits.items():
            call = make_call(world, group, rpm=rpm, number=made[group])
            answer = await world.store.ask(call)
            if isinstance(answer, Reserved):
                made[group] += 1
                await world.store.settle(call, answer, counted=(10, 10), rates=Rates())
        world.now += MINUTE_MS // 120 + at % 2
    return made


def make_call(world: World, group: str, *, rpm: int, number: int = 0) -> Call:
    return Call(
        bucket=world.bucket,
        group=group,
        task_id=f"{group}{number}",
        rpm=rpm,
        tpm=0,
        prompt_tokens=10,
        answer_tokens=10,
    )


async def test_of_different_settings_the_smallest_holds_for_all_while_it_is_asked_with(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    made = await count_calls(world, {"narrow": 6, "wide": 60, "none": 0}, minutes=3)
    assert 15 <= made.total() <= 3 * 6 + 1, "three minutes' worth, whoever makes the calls"
    assert min(made[group] for group in ("narrow", "wide", "none")) >= 4, "and shared"
    world.now += 6 * MINUTE_MS
    made = await count_calls(world, {"wide": 60})
    assert made["wide"] > 50, "who has gone limits nobody"


async def test_what_a_service_says_of_its_limits_holds_for_ten_minutes(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    call = make_call(world, "told", rpm=60)
    reserved = await world.store.ask(call)
    assert isinstance(reserved, Reserved)
    await world.store.settle(call, reserved, counted=(10, 10), rates=Rates(rpm=6))
    assert 4 <= (await count_calls(world, {"told": 60}))["told"] <= 7
    [level] = await world.store.read_levels([world.bucket])
    assert level is not None
    assert level.rpm == 6
    world.now += 10 * MINUTE_MS
    assert (await count_calls(world, {"told": 60}))["told"] > 50


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7.0)),
        *((text, None) for text in ("", "999999h", "9" * 400 + "s", "1796005655271", "soon")),
    ],
)
def test_a_services_times_are_read(text: str, seconds: float | None) -> None:
    assert read_duration(text) == seconds


def test_what_a_service_says_of_its_limits_is_read() -> None:
    told = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "20000",
        "x-ratelimit-remaining-tokens": "19000",
        "x-ratelimit-reset-tokens": "3s",
    }
    assert read_rates(200, told) == Rates(hold_s=1.0, rpm=60, tpm=20_000)
    assert read_rates(429, {"retry-after": "7"}) == Rates(is_refused=True, hold_s=7.0)
    assert read_rates(429, {}).hold_s > 0
    for odd in ("²", "9" * 5000, "-1", "60, 60;w=60"):
        assert read_rates(200, told | {"x-ratelimit-limit-requests": odd}).rpm == 0
    a_day = told | {"x-ratelimit-reset-requests": "7m12s"}
    assert read_rates(200, a_day).rpm == 0, "a day's limit, not a minute's"


PROMPT, STANDS = "x" * 33, "y" * 70  # about 11 and 20 tokens


@pytest.mark.parametrize(
    ("way", "wire", "expected"),
    [
        (RAW, {"max_tokens": None}, Estimate(31, 1000)),
        (IDS, {"max_tokens": 100}, Estimate(31, 75)),
        (OWN, {"max_tokens": 100}, Estimate(31, 75)),
        # Nothing of it is sent where it starts over.
        ("", {"max_tokens": 100}, Estimate(11, 100)),
        (RAW, {"max_tokens": 100, "params": {"presence_penalty": 1}}, Estimate(11, 100)),
        # What runs already is read on: nobody is called, and what was told of it is known.
        (RESPONSE, {"max_tokens": 100}, Estimate(0, 75, before=(11, 20), reads_on=True)),
    ],
)
def test_a_call_that_continues_is_estimated_with_the_text_that_it_sends_again(
    way: str, wire: dict[str, Any], expected: Estimate
) -> None:
    spec = TaskSpec(prompt=PROMPT, **wire)
    texts = {"content": STANDS, "reasoning": "", "refusal": ""}
    place = {"id": "resp_1"} if way == RESPONSE else {}
    standing = Standing(texts=texts, cursor=START, way=way, place=place, tokens=25)
    assert estimate_call(spec, standing) == expected
    assert estimate_call(spec, None).prompt == 11
