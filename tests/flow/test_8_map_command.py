"""Stage 8: a file of rows, asked by the command, as a person types it."""

import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import longtask_kit as lt
from longtask_kit.cli.rows_file import read_rows_file
from tests.command import LONGTASK, Done, longtask
from tests.flow.test_8_cli import read_terminal

SHORT = ("--model", "demo-fast", "--max-tokens", "12")


@pytest.fixture
def environment(stack: lt.LocalStack) -> dict[str, str]:
    return stack.environment


def write_rows(folder: Path, count: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f'{{"topic": "tides {folder.name} {i}"}}\n' for i in range(count)))
    return path


def ask(rows: Path, *options: str, environment: dict[str, str]) -> Done:
    return longtask(
        "map", str(rows), "--template", "Explain {topic}", *SHORT, *options, **environment
    )


def test_answers_are_written_beside_their_rows_and_asked_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path, 5), tmp_path / "results.jsonl"
    done = ask(rows, "--out", str(out), environment=environment)
    assert (done.returncode, done.stdout) == (0, "")
    assert "5 rows: 0 kept, 0 joined, 5 run" in done.stderr
    assert "5 rows · 5 done · " in done.stderr
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["topic"] for answer in answers] == [
        f"tides {tmp_path.name} {i}" for i in range(5)
    ]
    assert {answer["status"] for answer in answers} == {"completed"}
    assert all(answer["answer"] for answer in answers)
    again = ask(rows, "--out", str(tmp_path / "results.csv"), environment=environment)
    assert "5 rows: 5 kept" in again.stderr
    written = (tmp_path / "results.csv").read_text()
    assert [row["answer"] for row in csv.DictReader(io.StringIO(written, newline=""))] == [
        answer["answer"] for answer in answers
    ]
    plain = ask(rows, environment=environment)
    assert [json.loads(line) for line in plain.stdout.splitlines()] == answers


def test_a_group_is_a_line_of_its_own_among_groups_and_tasks(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = write_rows(tmp_path, 4)
    ask(rows, "--name", "four tides", environment=environment)
    listed = longtask("groups", "--json", "--limit", "1", **environment)
    [group] = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (group["name"], group["rows"], group["counts"]["done"]) == ("four tides", 4, 4)
    table = longtask("groups", **environment).stdout
    assert re.search(rf"four tides +4 +4 .*{group['groupId']} +\d+ s", table)
    tasks = longtask("ls", "--limit", "1", **environment).stdout
    assert re.search(rf"{group['groupId']} +completed .*4 rows: Explain", tasks)
    assert "task_" not in tasks


def test_a_group_is_exported_by_the_name_that_groups_prints_or_its_files(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = write_rows(tmp_path, 2).rename(tmp_path / f"{tmp_path.name}.jsonl")
    ask(rows, environment=environment)
    name = str(rows.resolve())
    table = longtask("groups", **environment | {"COLUMNS": "80"}).stdout
    at = table.index(f"\n{name}\n") + len(name) + 2  # how wide the rest is depends on other groups
    assert re.match(r" +2 +2 .*group_\S{22}\s+\d+ s\n", table[at:])
    for known in (name, rows.name, rows.stem):
        out = tmp_path / f"{len(known)}.csv"
        done = longtask("export", known, str(out), **environment)
        assert (done.returncode, out.exists()) == (0, True), done.stderr
    other = tmp_path / "other"
    other.mkdir()
    ask(Path(shutil.copy(rows, other)), environment=environment)
    done = longtask("export", rows.stem, str(out), **environment)
    assert done.returncode == 1
    assert "Several groups are called" in done.stderr


def test_a_row_that_failed_is_told_and_run_again_by_typing_the_same(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path, 2), tmp_path / "out.jsonl"
    failing = ("--out", str(out), "--model", "demo-bad-key")
    done = ask(rows, *failing, environment=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "2 rows have failed; type the same again to run them again."
    )
    assert "401" in json.loads(out.read_text().splitlines()[0])["error"]
    assert "0 kept, 0 joined, 2 run" in ask(rows, *failing, environment=environment).stderr


def test_rows_stop_at_a_budget_and_go_on_with_a_higher_one(
    stack: lt.LocalStack, environment: dict[str, str], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path, 3), tmp_path / "out.jsonl"
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    how = ["--out", str(out), "--parallelism", "1", "--schema", f"{tmp_path}/schema.json"]
    how += ["--price", "0.15,0.60", "--rpm", "100000", "--tpm", "100000000", "--timeout", "60"]
    how += ["--api", "chat", "--metadata", "of=tides", "--temperature", "none"]
    done = ask(rows, *how, "--budget-cost", "0.000001", environment=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "2 rows wait: the budget is spent; type the same with a higher one to go on."
    )
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in written].count("completed") == 1
    done = ask(rows, *how, "--budget-cost", "1", environment=environment)
    assert (done.returncode, "1 kept" in done.stderr) == (0, True), done.stderr
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        spec = kit.attach(json.loads(out.read_text().splitlines()[0])["task_id"]).spec
    assert (spec.api, spec.metadata, spec.temperature) == ("chat", {"of": "tides"}, None)
    assert (spec.timeout_s, spec.params["response_format"]["type"]) == (60, "json_schema")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--budget-tokens", "5", "--budget-cost", "1"], "--budget-tokens and --budget-cost"),
        (["--budget-cost", "1"], "--budget-cost needs --price"),
        (["--budget-cost", "nan", "--price", "1,2"], "--budget-cost is nan"),
        (["--price", "1"], "--price is '1': expected what a million tokens cost"),
        (["--price", "-1,nan"], "--price is '-1,nan': expected what a million tokens cost"),
        (["--max-tokens", "0"], '"--max-tokens" is 0'),
    ],
    ids=" ".join,
)
def test_an_option_that_is_wrong_is_told_by_its_name_and_starts_nothing(
    home: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    done = longtask("map", str(write_rows(tmp_path, 1)), "--template", "{topic}", *options)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert lt.LocalStack.find() is None


def test_who_leaves_is_told_how_to_come_back_and_nothing_is_lost(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path, 3), tmp_path / "out.jsonl"
    command = [*LONGTASK, "map", str(rows), "--template", "Explain {topic}", "--out", str(out)]
    command += ["--model", "demo@40", "--max-tokens", "40"]
    main, side = pty.openpty()
    with subprocess.Popen(command, stderr=side, env=os.environ | environment) as running:
        os.close(side)
        shown = b""
        while b"running" not in shown:
            shown += os.read(main, 65_536)
        running.send_signal(signal.SIGINT)
        shown += read_terminal(main)
    assert running.returncode == 130
    assert b"goes on. Type the same again" in shown.replace(b"\r\n", b" ")
    assert not out.exists()
    again = longtask(*command[len(LONGTASK) :], **environment)
    assert again.returncode == 0
    assert "0 run" in again.stderr
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.xlsx", "", "expected a file that ends in .jsonl, .csv, .txt, .parquet"),
        ("a.jsonl", '{"topic": 1}\n{"topic"', "line 2 is no JSON"),
        ("a.csv", "topic,b\n1,2,3\n", "row 2 has not the 2 fields"),
        ("a.csv", "topic,topic\n1,2\n", "two fields are called 'topic'"),
        ("a.jsonl", '{"other": 1}\n', "asks for {topic}; the row's fields are other"),
        ("a.jsonl", "", "There are no rows"),
        ("a.txt", None, "can't be read as UTF-8 text"),
    ],
)
def test_a_file_that_is_wrong_is_told_before_anything_is_started(
    environment: dict[str, str], tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    rows = tmp_path / name
    rows.write_bytes(b"\xff\xfe\xff") if content is None else rows.write_text(content)
    done = ask(rows, environment=environment)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert complaint in line
    assert line.startswith("SubmitError: ")


def test_where_answers_can_not_be_written_is_told_before_they_are_paid(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = write_rows(tmp_path, 1)
    for out in ("out.xml", "nowhere/out.csv"):
        done = ask(rows, "--out", str(tmp_path / out), environment=environment)
        assert done.stderr.startswith(f"SubmitError: --out {tmp_path / out}: ")


def test_rows_are_read_from_what_people_have(tmp_path: Path) -> None:
    written = {
        "a.txt": "one\n\ntwo\u2028still two\n",
        "a.csv": '\ufeffa,b\n1,"two\nlines"\n',
        "a.jsonl": '"text"\n{"a": 1}\n',
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    read = {path.name: read_rows_file(path) for path in sorted(tmp_path.iterdir())}
    assert read == {
        "a.csv": [{"a": "1", "b": "two\nlines"}],
        "a.jsonl": ["text", {"a": 1}],
        "a.parquet": [{"a": 1}, {"a": 2}],
        "a.txt": ["one", "two\u2028still two"],
    }
