"""The real model goes on from exactly the tokens that stand, whatever was killed.

`pytest tests/llm/test_continue.py --all --chaos=full` kills 200 times, and prints the figures.
"""

import contextlib
import math
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import longtask_kit as lt
from longtask_kit.local.model.installed import InstalledModel, list_models
from longtask_kit.local.model.native_server import STEP_TOKENS
from tests.chaos.recording_model import Call
from tests.chaos.rig import Rig, open_rig
from tests.llm.conftest import MODEL, find_server
from tests.llm.engine import Engine, run_engine

pytestmark = [pytest.mark.llm, pytest.mark.thorough, pytest.mark.timeout(3600)]
Scale = Callable[..., int]
Figures = Callable[[str, str], None]

PROMPTS = (
    "Explain what a message queue is.",
    "Say hello with many emoji 🎉",
    "Écrivez une histoire de la mer.",
    "用中文介绍长城",
    "日本の寿司について教えて",
    "Write a poem about a river.",
    "List ten uses of salt.",
    "Who was the first to climb a mountain, and why?",
)
_MOST_GAP = 0.2  # of two tokens, as logarithms of their likelihood: nearly equal


@pytest.fixture(scope="module")
def installed(llm_home: Path) -> InstalledModel:
    [found] = list_models(llm_home / "models")
    return found


@pytest.fixture(scope="module")
def engine(installed: InstalledModel) -> Iterator[Engine]:
    with run_engine(installed) as running:
        yield running


def ask(client: openai.OpenAI, prompt: str, **more: Any) -> tuple[str, list[int], str | None]:  # noqa: ANN401
    """Return text, tokens and finish reason of a streamed answer."""
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    ids: list[int] = []
    text, reason = "", None
    with client.chat.completions.create(stream=True, temperature=0, **asked | more) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                ids += getattr(choice, "token_ids", None) or []
                reason = choice.finish_reason or reason
    return text, ids, reason


@pytest.mark.parametrize("prompt", PROMPTS[1:4])
def test_the_tokens_it_tells_are_those_that_its_engine_has_generated(
    client: openai.OpenAI, engine: Engine, prompt: str
) -> None:
    text, ids, _ = ask(client, prompt, max_tokens=12)
    said = engine.generate(engine.read_prompt(prompt), 12)
    assert said["content"].startswith(text)
    assert said["tokens"][: len(ids)] == ids
    assert len(ids) > 8, "the last character may be left unsaid"


def test_behind_tokens_it_says_what_it_would_have_said(client: openai.OpenAI) -> None:
    question = {"role": "user", "content": PROMPTS[0]}
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    head, begun, _ = ask(client, PROMPTS[0], max_tokens=7)
    last = {"role": "assistant", "content": head, "token_ids": begun}
    messages: Any = [question, last]
    rest, ids, reason = ask(client, "", messages=messages, max_tokens=7, extra_body=goes_on)
    assert (head + rest, begun + ids, reason) == ask(client, PROMPTS[0], max_tokens=14)
    without: Any = [question, {"role": "assistant", "content": head}]
    again, _, _ = ask(client, "", messages=without, max_tokens=7, extra_body=goes_on)
    assert again == rest, "whoever has the text alone is understood as well"


@pytest.mark.parametrize("ids", [[-1], ["1"], [1.5], "1", [19], [1 << 40]])
def test_what_are_not_the_tokens_of_the_text_is_refused(client: openai.OpenAI, ids: object) -> None:
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    last = {"role": "assistant", "content": "A queue", "token_ids": ids}
    messages: Any = [{"role": "user", "content": PROMPTS[0]}, last]
    with pytest.raises(openai.BadRequestError):
        ask(client, "", messages=messages, extra_body=goes_on)


def check_tokens(calls: list[Call]) -> tuple[list[int], int]:
    """Check that each call was sent exactly what stood; return all tokens, and how many went on."""
    known: list[int] = []
    for call in calls:
        assert call.begun == known[: len(call.begun)], "it was sent what nobody had said"
        known = call.begun + call.ids
    return known, sum(bool(call.begun) for call in calls)


def explain(engine: Engine, prompt: str, whole: list[int], ids: list[int]) -> float:
    """Return how near to each other the two tokens were where an answer first differs."""
    same = next((n for n, (a, b) in enumerate(zip(whole, ids, strict=False)) if a != b), len(ids))
    return engine.find_gap(engine.read_prompt(prompt) + whole[:same])


def run_tasks(rig: Rig, prompts: list[str], limit: int) -> list[lt.Task]:
    """Run tasks at once, to their ends."""
    settings: Any = {"model": MODEL, "max_tokens": limit, "temperature": 0, "retries": 100}
    tasks = [rig.kit.submit(prompt, **settings) for prompt in prompts]
    for task in tasks:
        task.result(300)
    return tasks


def test_killed_at_any_token_it_goes_on_from_exactly_those_that_stand(
    engine: Engine, llm_home: Path, scale: Scale, figures: Figures
) -> None:
    """Killed are the webhook process and the engine, four tasks at once in each."""
    rng, limit, least = random.Random(22), scale(short=24, full=64), scale(short=2, full=200)
    with open_rig() as rig:
        whole: dict[str, tuple[str, list[int]]] = {}
        for some in (PROMPTS[:4], PROMPTS[4:]) if least > 100 else (PROMPTS[:4],):
            for task in run_tasks(rig, [*some], limit):
                [call] = rig.model.calls_of(task.id)
                whole[str(task.prompt)] = task.text, call.ids
        points: list[int] = []
        killed = {"webhook": 0, "engine": 0}
        seen = 0

        async def strike(_: Call) -> None:
            nonlocal seen
            seen += 1
            if points and seen >= points[0]:
                points.pop(0)
                who = rng.choice([*killed])
                server = find_server(llm_home, parent=os.getpid())
                if who == "engine" and server is not None:
                    os.kill(server, signal.SIGKILL)
                else:
                    who = "webhook"
                    rig.hooks.kill()
                killed[who] += 1

        rig.model.after_write = strike
        tasks = equal = went_on = generated = kept = 0
        gaps: list[float] = []
        while sum(killed.values()) < least:
            seen, points[:] = 0, sorted(rng.sample(range(8, 3 * limit), min(3, least)))
            for task in run_tasks(rig, rng.sample([*whole], 4), limit):
                calls, prompt = rig.model.calls_of(task.id), str(task.prompt)
                ids, continued = check_tokens(calls)
                text, undisturbed = whole[prompt]
                if task.text == text:
                    equal += 1
                else:
                    gaps.append(explain(engine, prompt, undisturbed, ids))
                tasks, went_on = tasks + 1, went_on + continued
                generated += sum(len(call.ids) for call in calls)
                kept += len(ids)
    kills = ", ".join(f"{count} of the {who}" for who, count in killed.items())
    near = "".join(f"; gap at the first other token {gap:.3f}" for gap in gaps)
    figures(
        f"8 {MODEL}, kill -9 at a random token",
        f"{sum(killed.values())} kills ({kills}), {tasks} tasks, four at once: {equal} texts equal "
        f"to the undisturbed ones{near}; {went_on} continued, each sent exactly the tokens that "
        f"stood; {100 * (generated - kept) / kept:.1f} % more tokens generated than kept",
    )
    assert went_on
    assert all(gap < _MOST_GAP for gap in gaps)


def test_reading_a_prompt_in_small_steps_is_measured(
    installed: InstalledModel, figures: Figures, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--chaos") != "full":
        pytest.skip("only with --chaos full")
    words, steps = 200, (512, STEP_TOKENS)
    best = dict.fromkeys(steps, math.inf)
    with contextlib.ExitStack() as stack:
        engines = {n: stack.enter_context(run_engine(installed, step_tokens=n)) for n in steps}
        for _ in range(4):  # by turns, so that what else runs here disturbs both
            for step, engine in engines.items():
                ids = engine.ask("/tokenize", content="the river " * words)["tokens"][:words]
                timings = engine.generate(ids, 1, cache_prompt=False)["timings"]
                best[step] = min(best[step], timings["prompt_per_token_ms"])
    told = [f"in steps of {step} tokens {ms:.1f} ms a token" for step, ms in best.items()]
    figures(f"8 {MODEL} reads a prompt of {words} tokens", ", ".join(told))
