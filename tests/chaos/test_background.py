"""A response in the background, whose reading is cut and handed over: one text, one run."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

import longtask_kit as lt
from longtask_kit.local.model.prose import split_tokens, write_long_reply
from tests.cut_model import CutModel
from tests.flow.deliveries import open_deliveries
from tests.flow.test_4_background import PROMPT, WIRE
from tests.flow.test_6_subscribe import collect

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600)]

LIMIT = 8000
_APART_S = 0.15  # a cut or a hand-over each, and as long until the next one reads


async def test_cut_and_handed_over_again_and_again_it_is_one_run_and_one_text(
    settings: lt.Settings, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    """Ten minutes of a model at a readable speed, on a time scale."""
    rng = random.Random(22)
    cuts, drains = scale(short=40, full=200), scale(short=10, full=50)
    rate = round(LIMIT / (3 * _APART_S * (cuts + drains)))
    planned = rng.sample(["cut"] * cuts + ["hand-over"] * drains, cuts + drains)
    done: Counter[str] = Counter()
    model = CutModel()
    async with open_deliveries(settings, model, WIRE) as deliveries:
        answers = deliveries.answers
        task_id = await deliveries.begin(model=f"demo-long@{rate}", maxTokens=LIMIT)
        reader = asyncio.create_task(collect(settings, task_id))
        while not answers or answers[-1].status_code != 200:
            how = planned.pop() if planned else "end"
            first_of_all = 2 if not answers else 1  # what runs there is known from then on
            most = round(2 * rate * _APART_S)
            model.cuts = iter([rng.randint(first_of_all, most)] if how == "cut" else [])
            drains_in_s = rng.uniform(0.01, 2 * _APART_S) if how == "hand-over" else 0.0
            await deliveries.deliver(task_id, drains_in_s=drains_in_s)
            done[how] += answers[-1].status_code != 200
    events = await reader
    text = "".join(split_tokens(write_long_reply(PROMPT))[:LIMIT])
    assert "".join(event.data for event in events if event.type == "content") == text
    assert [event.type for event in events].count("start") == 1, "and nothing was taken back"
    assert model.posts("/v1/responses") == 1
    figures(
        "9 a background response",
        f"{done['cut']} cuts, {done['hand-over']} hand-overs of {LIMIT:,} tokens: one run of the "
        "model, one text, each delta told once to who read throughout",
    )
