"""Stage 8: the same prompts asked of several models, voted for, and asked in other words."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr

import longtask_kit as lt
from longtask_kit.client.group_votes import put_prompt
from longtask_kit.submit.asked import replace_rows
from tests.serving import serve

calls: Counter[tuple[str, str]] = Counter()


async def answer(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Answer with the model's name and the prompt, and count who asks."""
    model, prompt = context.spec.model or "", context.spec.prompt
    calls[model, prompt] += 1
    yield f"{model}: {prompt}"
    usage = lt.Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5)
    yield lt.Outcome(usage=usage, finish_reason="stop")


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"answer": answer})
        yield kit


def ask(kit: lt.Kit, prompts: Any, **options: Any) -> lt.TaskGroup:  # noqa: ANN401
    return kit.compare(prompts, ["large", "small"], handler="answer", **options)


def test_each_prompt_is_asked_of_each_model_once(kit: lt.Kit) -> None:
    calls.clear()
    group = ask(kit, ["tides", "storms"], prices={"large": (1, 2)})
    assert group.results(30) == ["large: tides", "small: tides", "large: storms", "small: storms"]
    assert group.models == ["large", "small"]
    assert group.cost is None, "what the small one costs is not known"
    frame = group.to_frame()
    assert list(frame["prompt"]) == ["tides", "tides", "storms", "storms"]
    assert list(frame["model"]) == ["large", "small"] * 2
    again = ask(kit, ["tides", "storms", "new"], prices=(1, 2))
    assert again.results(30)[:4] == group.results()
    assert again.cost == pytest.approx(6 * (2 * 1 + 3 * 2) / 1e6)
    assert set(calls.values()) == {1}
    attached = kit.attach_group(again.id)
    assert attached.results(10) == again.results()
    assert attached.rows[1] == {"prompt": "tides", "model": "small"}


def test_rows_and_a_template_are_compared_as_they_are_mapped(kit: lt.Kit) -> None:
    frame = pl.DataFrame({"text": ["a", "b"]})
    group = ask(kit, frame, template="Say {text}")
    assert group.results(30)[2:] == ["large: Say b", "small: Say b"]
    found = group.to_frame()
    assert isinstance(found, pl.DataFrame)
    assert list(found["text"]) == ["a", "a", "b", "b"]
    assert ask(kit, "one text").results(30) == ["large: one text", "small: one text"]


def test_votes_are_kept_with_the_group_for_every_kernel(kit: lt.Kit) -> None:
    group = ask(kit, ["first", "second", "third"])
    group.results(30)
    assert group.votes == [None, None, None]
    group.vote(0, "small")
    group.vote(1, "tie")
    other = kit.attach_group(group.id)
    other.vote(2, "large")
    assert group.votes == other.votes == ["small", "tie", "large"]
    assert list(other.to_frame()["vote"]) == [0, 1, 0.5, 0.5, 1, 0]
    group.vote(2, None)
    assert other.votes == ["small", "tie", None]
    assert ask(kit, ["third", "first"], name="voted").votes == [None, None], "a group's own"


def test_a_prompt_is_asked_in_other_words_in_its_place(kit: lt.Kit) -> None:
    calls.clear()
    group = ask(kit, ["keep", "chnage"], system="Be terse.", name="anew")
    group.results(30)
    group.vote(0, "small")
    group.vote(1, "large")
    attached = kit.attach_group(group.id)
    for one, words in ((group, "change"), (attached, "chance")):
        one.ask_anew(1, words)
        assert one.results(30)[:2] == ["large: keep", "small: keep"]
        assert one.results(30)[2:] == [f"large: {words}", f"small: {words}"]
        assert one.rows[3] == {"prompt": words, "model": "small"}
        assert one.votes == ["small", None], "of other words nobody has said anything"
        task = one.tasks[3]
        assert task is not None
        assert (task.spec.system, task.spec.handler) == ("Be terse.", "answer")
    assert calls["large", "keep"] == 1
    assert kit.attach_group(group.id).counts == {"done": 4}


def test_votes_travel_with_an_archive(kit: lt.Kit, tmp_path: Path) -> None:
    group = ask(kit, ["archived"])
    group.results(30)
    group.vote(0, "large")
    kit.export_archive(tmp_path / "runs.db", group)
    [back] = kit.import_archive(tmp_path / "runs.db")
    assert back.votes == ["large"]
    assert back.models == ["large", "small"]


def test_over_http_it_is_the_same(kit: lt.Kit, settings: lt.Settings) -> None:
    keyed = settings.model_copy(update={"api_key": SecretStr("k" * 24)})
    with (
        serve(lt.create_app(keyed, handlers={"answer": answer})) as url,
        lt.connect(url, api_key="k" * 24, quiet=True) as far,
    ):
        group = ask(far, ["far"])
        group.vote(0, "small")
        assert group.votes == ["small"]
        group.ask_anew(0, "away")
        assert group.votes == [None]
        assert far.attach_group(group.id).rows[0] == {"prompt": "away", "model": "large"}
        with pytest.raises(lt.SubmitError, match="A vote is for a task of"):
            far._door.ask(lambda backend: backend.groups.vote(group.id, "task_of_others", "tie"))


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ("large", {}, "expected a list of at least two names"),
        (["large"], {}, "expected 2 to 26 names, each once"),
        (["a", "a"], {}, "expected 2 to 26 names, each once"),
        (["a", "b"], {"n": 3}, "compare.. has no `n`"),
        (["a", "b"], {"budget_cost": 1}, "compare.. has no `budget_cost`"),
        (["a", "b"], {"parallelism": 0}, "`parallelism` is 0"),
        (["a", "b"], {"prices": {"a": 3}}, "expected .in, out."),
    ],
)
def test_what_can_not_be_compared_is_told_before_anything_is_queued(
    kit: lt.Kit,
    models: Any,  # noqa: ANN401
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(lt.ConfigError, match=message):
        kit.compare(["x"], models, **options)


def test_a_vote_for_what_is_not_there_is_refused(kit: lt.Kit) -> None:
    group = ask(kit, ["vote"])
    with pytest.raises(lt.ConfigError, match="expected one of large, small, tie, or None"):
        group.vote(0, "huge")
    with pytest.raises(lt.ConfigError, match="expected a number from 0 to 0"):
        group.vote(1, "large")
    mapped = kit.map(["no votes here"], handler="answer")
    assert (mapped.models, mapped.votes) == ([], [])
    with pytest.raises(lt.ConfigError, match=r"kit\.compare"):
        mapped.vote(0, "large")


def test_a_prompt_is_put_into_what_was_asked() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    content = [{"type": "text", "text": "old"}, image]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": content},
    ]
    spec = lt.TaskSpec(messages=messages, temperature=None)
    fresh = put_prompt(spec, "new")
    assert fresh.messages is not None
    assert fresh.messages[:2] == messages[:2]
    assert fresh.messages[2]["content"] == [image, {"type": "text", "text": "new"}]
    assert fresh.temperature is None
    assert put_prompt(lt.TaskSpec(prompt="old"), "new") == lt.TaskSpec(prompt="new")


@pytest.mark.parametrize(("begin", "rows"), [(0, ["x", "y", "c"]), (1, ["a", "x", "y"])])
def test_rows_take_the_place_of_others(begin: int, rows: list[str]) -> None:
    assert replace_rows(["a", "b", "c"], ["x", "y"], begin=begin) == rows
    for wrong in (-1, 2):
        with pytest.raises(lt.SubmitError):
            replace_rows(["a", "b", "c"], ["x", "y"], begin=wrong)
