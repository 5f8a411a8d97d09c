"""A comparison as it is seen: what is marked, hidden and saved, and what reaches the page."""

import math
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.widgets.compare import CompareOutput
from longtask_kit.widgets.compare_facts import Answer, Prompt, mark, order_answers, read_prompt
from longtask_kit.widgets.compare_saved import describe_html, describe_text
from longtask_kit.widgets.differences import MOST_PAIRS, find_differences
from longtask_kit.widgets.facts import Figure
from longtask_kit.widgets.group_display import describe_group
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm
from tests.widgets.test_bundle import PAYLOADS, find_attacks
from tests.widgets.test_group import make_facts

MODELS = ["demo-fast", "demo-length"]


def ask(kit: lt.Kit, count: int = 2, **options: Any) -> lt.TaskGroup:  # noqa: ANN401
    prompts = [f"Explain tides to {i} people" for i in range(count)]
    return kit.compare(prompts, MODELS, max_tokens=20, **options)


@pytest.mark.parametrize(
    ("texts", "marked"),
    [
        (["A worker has it.", "Many users have it."], [["A worker has"], ["Many users have"]]),
        (["same", "same"], [[], []]),
        (["one two three", "one three"], [["two"], []]),
        (["a b", "a b", "a c"], [[], [], ["c"]]),
        (["", "new words"], [[], ["new words"]]),
        (["潮汐有规律", "潮水有规律"], [["汐"], ["水"]]),
        (["only one"], [[]]),
        ([], []),
    ],
)
def test_words_that_differ_are_found(texts: list[str], marked: list[list[str]]) -> None:
    found = find_differences(texts)
    pairs = zip(texts, found, strict=True)
    assert [[text[begin:end] for begin, end in spans] for text, spans in pairs] == marked


def test_texts_that_are_too_long_are_not_compared() -> None:
    words = math.isqrt(MOST_PAIRS) + 1
    assert find_differences(["a " * words, "b " * words]) == [[], []]


def test_marks_are_counted_as_the_page_counts() -> None:
    answers = tuple(
        Answer(name="m", word="", kind="good", text=text, is_whole=True)
        for text in ("🌊 tides", "🌊 storms")
    )
    prompt = Prompt(number=0, prompt="p", answers=answers)
    assert mark(prompt).marks == (((3, 8),), ((3, 9),))
    running = (answers[0], Answer(name="m", word="", kind="run", text="t", is_whole=True))
    assert mark(Prompt(number=0, prompt="p", answers=running)).marks is None, "not before the end"


def test_a_blind_order_is_the_same_each_time_and_not_each_prompts() -> None:
    orders = [order_answers("group_1", number, 3) for number in range(20)]
    assert orders == [order_answers("group_1", number, 3) for number in range(20)]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_of_a_text_that_grows_only_its_end_is_sent() -> None:
    before = Answer(name="m", word="", kind="run", text="The sea")
    grown = Answer(name="m", word="", kind="run", text="The sea rises")
    other = Answer(name="m", word="", kind="run", text="Again")
    assert (grown.to_wire(before) or {})["add"] == " rises"
    assert (other.to_wire(grown) or {})["text"] == "Again"
    assert grown.to_wire(grown) is None


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_of_a_comparison_becomes_markup(payload: str) -> None:
    answer = Answer(name=payload, word=payload, kind="bad", note=payload, text=payload)
    prompt = Prompt(number=0, prompt=payload, answers=(answer, answer), vote=0)
    assert find_attacks(describe_html(make_facts(name=payload), [prompt], 1)) == []


def test_what_is_saved_obeys_no_text_and_says_which_answer_is_not_whole() -> None:
    usage = Figure("", "2", " tokens")
    answers = (
        Answer(name="a", word="", kind="bad", note="\x1b[31mno\u202e"),
        Answer(name="b", word="length", kind="warn", figures=(usage,), text="\x1b[2Jcut"),
        Answer(name="c", word="", kind="good", figures=(usage,), text="whole"),
    )
    prompts = [Prompt(number=0, prompt="p", answers=answers)]
    plain, html = describe_text(make_facts(), prompts, 1), describe_html(make_facts(), prompts, 1)
    assert not {"\x1b", "\u202e"} & {*plain, *html}
    lines = [line.split() for line in plain.splitlines()]
    assert ["b", "2", "tokens", "[length]", "[2Jcut"] in lines
    assert ["c", "2", "tokens", "whole"] in lines


def test_a_prompt_is_told_as_long_as_one_of_its_tasks_is_there(kit: lt.Kit) -> None:
    group = ask(kit)
    group.results(30)
    first, *_ = group.tasks
    for task in (first, *group.tasks[2:]):
        assert task is not None
        task.delete()
    found = kit.attach_group(group.id)
    wait_until(lambda: found.counts["failed"] == 3)
    prompts = found._list_prompts()
    assert read_prompt(found, 0, prompts).prompt == "Explain tides to 0 people"
    assert read_prompt(found, 1, prompts).prompt == "not there any more"


def test_what_is_saved_has_every_answer_and_the_best_one(kit: lt.Kit) -> None:
    group = ask(kit, 12, name="saved beside", prices=(1, 1))
    answers = group.results(60)
    group.vote(0, "demo-length")
    group.vote(1, "tie")
    bundle = describe_group(group)
    plain, html = bundle["text/plain"], bundle["text/html"]
    assert plain.startswith("saved beside: 24 rows, 24 done")
    best, tie = (line.split() for line in plain.splitlines()[4:8:3])
    assert best[:2] == ["*", "demo-length"]
    assert tie[:2] == ["*", "demo-fast"]
    assert plain.endswith(f'2 more prompts: kit.attach_group("{group.id}")')
    assert html.count("20 tokens") >= 24
    assert "<script" not in html
    assert answers[1].split()[0].strip("#*") in html
    attached = kit.attach_group(group.id)
    attached.results(10)
    assert describe_group(attached) == bundle, "in another kernel"


def test_a_blind_comparison_is_saved_blind(kit: lt.Kit) -> None:
    group = ask(kit, 2, blind=True)
    group.results(60)
    group.vote(1, "demo-fast")
    plain = describe_group(group)["text/plain"].split("Explain")
    assert "demo" not in plain[1]
    assert "demo-fast" in plain[2]


class Page:
    """A page's half of the protocol, as `js/src/compare.js` has it, with one view."""

    def __init__(self, group: lt.TaskGroup) -> None:
        self.output = CompareOutput(group)
        self.facts: dict[str, Any] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.texts: dict[tuple[int, int], str] = {}
        self.sent: list[dict[str, Any]] = []
        self._read = 0

    def say(self, type_: str, **message: object) -> None:
        self.output._receive(self.output, {"t": type_, "v": "view"} | message, [])

    def look(self) -> "Page":
        """Take in what was sent since."""
        assert isinstance(self.output.comm, RecordingComm)
        contents = [(m.get("data") or {}).get("content") for m in self.output.comm.published]
        for content in [c for c in contents if c][self._read :]:
            self._read += 1
            self.sent.append(content)
            self.facts = content.get("facts", self.facts)
            for row in content.get("windows", {}).get("view", {}).get("rows", []):
                self.rows[row["row"]] = row
                for at, answer in enumerate(row["answers"]):
                    if answer is not None:
                        old = self.texts.get((row["row"], at), "")
                        text = old + answer["add"] if "add" in answer else answer["text"]
                        self.texts[row["row"], at] = text
        return self


def test_a_view_is_sent_the_texts_of_what_it_shows_as_they_grow(kit: lt.Kit) -> None:
    group = kit.compare(["Explain tides"], ["demo@60", "demo@61"], max_tokens=40)
    page = Page(group)
    page.say("view", begin=0, seen=[0])
    texts = group.results(60)
    wait_until(lambda: page.look().facts.get("isOver") and list(page.texts.values()) == texts)
    pieces = [
        answer
        for content in page.sent
        for row in content.get("windows", {}).get("view", {}).get("rows", [])
        for answer in row["answers"]
        if answer and "add" in answer and answer["add"]
    ]
    assert len(pieces) > 2, "each only what was new"
    words = ["".join(figure) for figure in page.facts["models"][0]["figures"]]
    assert "40 tokens" in words


def test_prompts_that_nobody_sees_are_not_followed(kit: lt.Kit) -> None:
    group = ask(kit, 30)
    group.results(60)
    page = Page(group)
    page.say("view", begin=0, seen=[0, 1])
    wait_until(lambda: len(page.look().rows) == 25)
    followed = {i for i, task in group._tasks.items() if task._feed.state.name != "IDLE"}
    assert followed == set(group._record.rows[:4])
    page.say("seen", seen=[24, 99, "x"])
    wait_until(lambda: page.look().texts[24, 1] == group.results()[49])
    page.say("view", begin=25, seen=[29])
    wait_until(lambda: page.look().texts.get((29, 1)) == group.results()[59])
    assert page.output.get_state()["snapshot"]["total"] == 30


def test_votes_marks_and_other_words_come_from_the_page(kit: lt.Kit) -> None:
    group = ask(kit, 2)
    group.results(60)
    page = Page(group)
    page.say("view", begin=0, seen=[0, 1])
    wait_until(lambda: page.look().rows)
    page.say("vote", row=0, at=1)
    wait_until(lambda: page.look().rows[0]["vote"] == 1)
    assert group.votes == ["demo-length", None]
    page.say("vote", row=0, at=None)
    wait_until(lambda: page.look().rows[0]["vote"] is None)
    page.say("marks")
    wait_until(lambda: page.look().rows[0]["marks"])
    page.say("marks")
    wait_until(lambda: page.look().rows[0]["marks"] is None)
    page.say("edit", row=1)
    wait_until(lambda: page.look().sent[-1].get("text") == "Explain tides to 1 people")
    page.say("anew", row=1, prompt="Explain storms")
    wait_until(lambda: page.look().rows[1]["prompt"] == "Explain storms")
    wait_until(lambda: page.look().texts[1, 0] == group.results(30)[2])
    page.say("anew", row=1, prompt=" ")
    wait_until(lambda: "prompt" in page.look().facts["notice"])
    page.say("vote", row=7, at=0)
    wait_until(lambda: "expected a number from 0 to 1" in page.look().facts["notice"])


def test_nothing_of_a_hidden_name_reaches_the_page(kit: lt.Kit) -> None:
    group = ask(kit, 2, blind=True)
    group.results(60)
    page = Page(group)
    page.say("view", begin=0, seen=[0, 1])
    wait_until(lambda: all(page.look().texts.get((0, at)) for at in (0, 1)))
    assert "demo" not in str(page.rows) + str(page.facts)
    page.say("vote", row=0, at=0)
    wait_until(lambda: page.look().rows[0]["vote"] == 0)
    best = MODELS[order_answers(group.id, 0, 2)[0]]
    assert group.votes == [best, None]
    assert page.rows[0]["answers"][0]["name"] == best
    assert "demo" not in str(page.rows[1])


def test_a_comparison_is_cancelled_as_one(kit: lt.Kit) -> None:
    page = Page(kit.compare(["cancelled", "beside"], ["demo@2", "demo@3"]))
    page.say("view", begin=0, seen=[0, 1])
    wait_until(lambda: page.look().facts.get("kind") == "run", timeout_s=30)
    page.say("cancel")
    wait_until(lambda: page.look().facts["isOver"], timeout_s=60)
    assert page.facts["word"] == "4 failed"
    answers = [answer for n in (0, 1) for answer in page.rows[n]["answers"] if answer]
    assert {answer["kind"] for answer in answers} <= {"quiet", "bad"}


def test_failed_answers_say_why_and_are_run_again(kit: lt.Kit) -> None:
    group = kit.compare(["x"], ["demo-fast", "demo-bad-key"])
    page = Page(group)
    page.say("view", begin=0, seen=[0])
    wait_until(lambda: page.look().facts.get("word") == "1 failed", timeout_s=30)
    wait_until(lambda: (page.look().rows[0]["answers"][1] or {}).get("kind") == "bad")
    assert "401" in page.rows[0]["answers"][1]["note"]
    [failed] = group._find_failed()
    before = group._watch.states[failed].attempt
    page.say("retry")
    wait_until(
        lambda: group._watch.is_over and group._watch.states[failed].attempt == before + 1,
        timeout_s=30,
    )
    feed = group._find_task(failed)._feed
    wait_until(lambda: feed.state.is_over and feed.transcript.attempt == before + 1)
