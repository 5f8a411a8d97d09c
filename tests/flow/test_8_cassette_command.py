"""Stage 8: cassettes at the command line, and in notebooks that are run with them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longtask_kit.cassettes import Answer, Question
from longtask_kit.cli.cassette import drop_unused
from longtask_kit.client.cassette import add_answers, load_cassette
from tests.command import longtask
from tests.conftest import open_home


@pytest.fixture(scope="module", autouse=True)
def _shared_home() -> Iterator[Path]:
    with open_home() as home:
        yield home


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "answers.jsonl"


def record(path: Path, *prompts: str, text: str = "So.", **asked: Any) -> Path:  # noqa: ANN401
    answers = []
    for prompt in prompts:
        body = {"messages": [{"role": "user", "content": prompt}], "model": "m"}
        body |= {"max_tokens": 1000, "temperature": 0.7} | asked
        attempt = {"text": text, "deltas": 1, "pace": [0, len(text), 0, 0]}
        answers.append(Answer(Question.of_request(body), "2026-11-28", [attempt]))
    add_answers(path, answers)
    return path


def write_notebook(path: Path, *sources: str) -> Path:
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for i, source in enumerate(sources)
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    document = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))
    return path


def test_a_run_is_recorded_and_replayed(file: Path) -> None:
    asked = ("Say it.", "--model", "demo-fast")
    first = longtask("run", *asked, "--record", str(file))
    assert first.returncode == 0, first.stderr
    again = longtask("run", *asked, "--replay", str(file))
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "replayed from answers.jsonl (recorded " in again.stderr
    quick = {"LONGTASK_REPLAY_SPEED": "0"}
    told = longtask("run", *asked, "--replay", str(file), "--json", **quick)
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert "".join(e["data"] for e in events if e["type"] == "content") == first.stdout.rstrip("\n")
    [said] = [e["data"] for e in events if e.get("name") == "replayed"]
    assert said["file"] == "answers.jsonl"
    other = longtask("run", "Say that.", "--model", "demo-fast", "--replay", str(file))
    assert other.returncode == 1
    assert "Say [it. → that.]" in other.stderr.replace("\n", " ")
    assert longtask("run", *asked, "--record", str(file), "--no-wait").returncode == 1


def test_show_says_what_is_in_it(file: Path) -> None:
    record(file, "Why is the sky blue?", "Who?")
    file.write_text(file.read_text() + "{\n")
    shown = longtask("cassette", "show", str(file)).stdout
    assert "Why is the sky blue?" in shown
    assert "2 answers, 0 kB, replayed from answers.jsonl (recorded 28 Nov, m)" in shown
    assert "line 3 is damaged" in shown
    lines = longtask("cassette", "show", "--json", str(file)).stdout.splitlines()
    assert [json.loads(line)["line"] for line in lines] == [1, 2]


def test_show_shortens_nothing_but_a_prompt_where_it_is_narrow(file: Path) -> None:
    record(file, "Why is the sky blue, and for how long?", model="a-model-with-a-long-name")
    shown = longtask("cassette", "show", str(file), COLUMNS="40").stdout
    assert all(whole in shown for whole in ("2026-11-28", "a-model-with-a-long-name", "Why is the"))
    assert all(len(line) <= 40 for line in shown.splitlines()[:-1])


def test_a_line_whose_content_is_neither_text_nor_parts_is_damaged(file: Path) -> None:
    record(file, "one", "two")
    wire = json.loads(file.read_text().splitlines()[1])
    wire["messages"] = [{"role": "user", "content": [wire.pop("prompt")]}]
    file.write_text(f"{file.read_text().splitlines()[0]}\n{json.dumps(wire)}\n")
    shown = longtask("cassette", "show", str(file))
    assert shown.returncode == 0
    assert "one" in shown.stdout
    assert "line 2 is damaged, messages can't be" in shown.stdout
    assert longtask("cassette", "check", str(file)).returncode == 1


def test_half_a_sign_that_an_edited_line_holds_is_replayed_as_what_stands_for_it(
    file: Path,
) -> None:
    record(file, "one", text="half \ud83d")
    replayed = ("--replay", str(file), "--model", "m")
    told = longtask("run", "one", *replayed, LONGTASK_REPLAY_SPEED="0")
    assert (told.returncode, told.stdout) == (0, "half \ufffd\n")
    record(file, "o\ud83dne")
    told = longtask("run", "other", *replayed, LONGTASK_REPLAY_SPEED="0")
    assert "holds no answer to this" in told.stderr.replace("\n", " ")


def test_check_tells_damage_and_what_a_notebook_spells_out_and_misses(file: Path) -> None:
    record(file, "one", "two")
    notebook = write_notebook(
        file.parent / "a.ipynb",
        'import longtask_kit as lt\nkit = lt.connect(replay="answers.jsonl")',
        'kit.submit("one")\nkit.map(["two", "three"])',
        "%%longtask -n x\nfour",
    )
    done = longtask("cassette", "check", str(notebook))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "a.ipynb: cell 2 asks what is not recorded: three",
        "a.ipynb: cell 3 asks what is not recorded: four",
    ]
    record(file, "three", "four")
    assert longtask("cassette", "check", str(notebook), str(file)).returncode == 0
    file.write_text(file.read_text() + "{\n")
    assert longtask("cassette", "check", str(file)).returncode == 1


def test_a_file_that_can_not_be_read_keeps_no_other_from_being_shown_or_checked(file: Path) -> None:
    record(file, "one")
    shown = longtask("cassette", "show", "missing.jsonl", str(file))
    assert (shown.returncode, "one" in shown.stdout) == (1, True)
    assert "ConfigError: 'missing.jsonl' can't be read as a cassette" in shown.stderr
    torn = file.parent / "torn.ipynb"
    torn.write_text('{"cells": [{"cell_type": "code", "source": 5}]}')
    whole = write_notebook(file.parent / "whole.ipynb", 'kit.submit("two")')
    checked = longtask("cassette", "check", str(file), str(torn), str(whole))
    assert checked.returncode == 1
    assert f"{torn} is no notebook of format 4: in cell 1, the source is no text" in checked.stdout
    assert "whole.ipynb: cell 1 asks what is not recorded: two" in checked.stdout


def test_merge_joins_and_the_later_file_wins(file: Path) -> None:
    record(file, "one", "two")
    other = record(file.parent / "other.jsonl", "two", "three", text="No.")
    done = longtask("cassette", "merge", str(file), str(other))
    assert done.stdout == "answers.jsonl: 3 answers, 1 new, 1 replaced\n"
    texts = {a.attempts[0]["text"] for a in load_cassette(file).answers.values()}
    assert texts == {"So.", "No."}
    assert longtask("cassette", "merge", str(file)).returncode == 1


TELLS = (
    "import longtask_kit as lt\nkit = lt.connect()",
    'tasks = [kit.submit(f"tell of {it}") for it in ("cats", "dogs")]',
    "for task in tasks: task.result()",
)


@pytest.mark.gate
def test_notebooks_are_run_to_see_what_they_miss(file: Path) -> None:
    record(file, "tell of cats", "tell of dogs", "tell of old elks")
    whole = write_notebook(file.parent / "a.ipynb", *TELLS)
    # Row by row the same as the first, on the same stack: not a word more is asked.
    other = write_notebook(
        file.parent / "b.ipynb",
        TELLS[0],
        'kit.map(["tell of cats", "tell of new elks"]).results()',
        "1 / 0",
    )
    done = longtask("cassette", "check", str(file), str(whole), str(other), "--replay")
    assert done.returncode == 1
    first, second, missed, failed = done.stdout.splitlines()
    assert (first, second) == ("answers.jsonl: 3 answers", "a.ipynb: nothing is missing")
    assert missed.startswith("b.ipynb: answers.jsonl holds no answer to this. Nearest is line 3: ")
    assert "“tell of [old → new] elks” (recorded → asked)" in missed
    assert failed == "b.ipynb: cell 3 fails: ZeroDivisionError: division by zero"


@pytest.mark.gate
def test_a_notebook_that_asks_the_model_itself_is_looked_through_with_the_file_alone(
    file: Path,
) -> None:
    before = record(file, "tell of cats").read_bytes()
    asks = "import longtask_kit as lt\nkit = lt.connect(replay='answers.jsonl', mode={!r})\n"
    asks += "kit.submit('tell of dogs')"
    paths = [
        write_notebook(file.parent / f"{mode}.ipynb", asks.format(mode), "kit.tasks()[0].result()")
        for mode in ("extend", "renew")
    ]
    done = longtask("cassette", "check", str(file), *map(str, paths), "--replay")
    assert done.returncode == 1
    assert "“tell of [cats → dogs]” (recorded → asked)" in done.stdout
    assert file.read_bytes() == before


def test_a_notebook_whose_kernel_dies_is_told_and_drops_nothing(file: Path) -> None:
    before = record(file, "tell of cats").read_bytes()
    path = write_notebook(file.parent / "a.ipynb", "import os; os._exit(1)")
    done = longtask("cassette", "check", str(file), str(path), "--replay")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "a.ipynb: its kernel died")
    done = longtask("cassette", "prune", str(file), str(path))
    assert "so nothing is dropped: its kernel died" in " ".join(done.stderr.split())
    assert file.read_bytes() == before


@pytest.mark.gate
def test_what_no_notebook_uses_is_dropped_once_all_have_run_to_their_end(file: Path) -> None:
    record(file, "tell of cats", "tell of dogs", "nobody asks this")
    before = file.read_bytes()
    broken = write_notebook(file.parent / "b.ipynb", "1 / 0")
    done = longtask("cassette", "prune", str(file), str(broken))
    assert (done.returncode, "nothing is dropped" in done.stderr.replace("\n", " ")) == (1, True)
    assert file.read_bytes() == before
    notebook = write_notebook(file.parent / "a.ipynb", *TELLS)
    done = longtask("cassette", "prune", str(file), str(notebook))
    assert done.stdout.splitlines() == [
        "line 1: nobody asks this",
        "answers.jsonl: 1 answer dropped",
    ]
    assert file.read_bytes() == b"".join(before.splitlines(keepends=True)[1:])


def test_a_dry_run_only_tells_what_is_unused(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(file, "one", "two")
    before = file.read_bytes()
    used = [*load_cassette(file).answers][:1]
    drop_unused(file, used, dry_run=True)
    assert capsys.readouterr().out == "line 2: two\nanswers.jsonl: 1 answer unused\n"
    assert file.read_bytes() == before
