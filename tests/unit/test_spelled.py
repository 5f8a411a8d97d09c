"""What a notebook's code spells out of what it asks."""

import pytest

from longtask_kit.cli.spelled import Asked, find_asked, list_asked, list_texts

SAID = '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]'
PARTS = '[{"type": "text", "text": "What is it?"}, lt.image("cat.png")]'


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ('kit.submit("one")', ["one"]),
        ('kit.submit(max_tokens=3, prompt="one")', ["one"]),
        (f"kit.submit(messages={SAID.replace('said', repr('Hello'))})", ["Be brief.", "Hello"]),
        (f"kit.submit(messages={SAID})", ["Be brief."]),
        (f"kit.submit({PARTS})", ["What is it?"]),
        ('await kit.submit("one").reply("two").reply(prompt="three")', ["one", "two", "three"]),
        ('chat.send(prompt="one", temperature=0)', ["one"]),
        ('kit.map(["one", f"{two}", ("three")], n=2)', ["one", "three"]),
        ('kit.map(rows=["one"])', ["one"]),
        ('kit.map([{"prompt": "one", "system": "s"}, {"messages": "two"}])', ["one", "two"]),
        ('kit.map(["cats"], "Of {}")', []),
        ('kit.map(["cats"], template="Of {}")', []),
        ('kit.compare("one", ["m", "n"])', ["one"]),
        ('kit.compare(prompts=["one", "two"], models=["m", "n"])', ["one", "two"]),
        ('kit.compare(["cats"], ["m", "n"], "Of {}")', []),
        ('group.ask_anew(0, "one")\ngroup.ask_anew(1, text="two")', ["one", "two"]),
        ('%load_ext longtask_kit\n!ls\nkit.submit("one")', ["one"]),
        ("%%longtask -n x\none\n", ["one"]),
        ("%%longtask --format\nabout {it}", []),
        ('kit.submit(prompt)\nprint("one")\nsubmit("two")\nkit.submit("")', []),
        ("kit.submit('one'", []),
    ],
)
def test_what_is_asked_as_it_stands_is_found_wherever_it_stands(
    source: str, asked: list[str]
) -> None:
    assert list(list_asked(source)) == asked


def test_a_text_that_may_be_asked_is_any_text() -> None:
    source = '%load_ext x\nprompt = "one"\nkit.submit(prompt, system="two")\nprint("")'
    assert list(list_texts(source)) == ["one", "two"]
    assert list(list_texts("%%longtask\none")) == ["one"]


def test_cells_are_counted_from_one_as_a_page_does() -> None:
    sources = [("markdown", 'kit.submit("no")'), ("code", ["kit.sub", 'mit("one")'])]
    cells = [{"cell_type": kind, "source": source} for kind, source in sources]
    assert find_asked({"cells": cells}) == [Asked(2, "one")]
