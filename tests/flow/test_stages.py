"""The log that an operator reads: a line a stage, as text or JSON, and no word of the task."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.stages import JsonFormatter


def find_fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = vars(record)["longtask"]
    return fields


def test_each_stage_of_a_tasks_way_is_a_line(kit: lt.Kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.serve()
    with caplog.at_level(logging.INFO, "longtask_kit.stages"):
        task = kit.submit("Explain SECRETIVE tides", model="demo-cut-then-ok", max_tokens=30)
        text = task.result(30)
    told = [told for told in map(find_fields, caplog.records) if told["taskId"] == task.id]
    assert [(line["stage"], line.get("attempt")) for line in told] == [
        ("submit", None),
        *(("delivery", None), ("attempt", 1), ("first_token", 1), ("end", 1)),
        *(("delivery", None), ("attempt", 2), ("first_token", 2), ("end", 2)),
    ]
    ends = [line for line in told if line["stage"] == "end"]
    assert [(line["status"], line.get("code")) for line in ends] == [
        ("retrying", "model_connection"),
        ("completed", None),
    ]
    assert len({line["messageId"] for line in told}) == 1, "one message, on every line"
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert {json.loads(line)["level"] for line in lines} == {"info"}
    for word in ("SECRETIVE", "tides", text[:20]):
        assert word not in "\n".join(lines)


def test_an_end_that_no_attempt_wrote_is_a_line_too(
    kit: lt.Kit, caplog: pytest.LogCaptureFixture
) -> None:
    kit.serve()
    with caplog.at_level(logging.INFO, "longtask_kit.stages"):
        group = kit.map([f"stage {i}" for i in range(3)], model="demo@2", parallelism=1)
        alone, *others = [task for task in group.tasks if task is not None][::-1]
        alone.cancel()  # it waits
        group.cancel()
        group.results(30, errors="return")
    told = [find_fields(record) for record in caplog.records]
    ends = {line["taskId"]: line for line in told if line["stage"] == "end"}
    assert ends.keys() == {task.id for task in (alone, *others)}
    assert {line["status"] for line in ends.values()} == {"cancelled"}
    assert all(line["messageId"] for line in ends.values())
    assert "attempt" not in ends[alone.id], "none has run"


@pytest.mark.parametrize(("form", "count"), [("json", 1), ("text", 1), ("", 0)])
def test_a_process_writes_it_to_stderr_as_the_environment_says(
    stack: lt.LocalStack, form: str, count: int
) -> None:
    """Once, however many apps and kits it makes."""
    code = (
        "import longtask_kit as lt\n"
        "lt.create_app()\n"
        "with lt.connect(quiet=True) as kit:\n"
        "    print(kit.submit('x', model='demo-fast').id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=stack.environment | {"LONGTASK_LOG": form},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if done.stdout.strip() in line]
    assert len(lines) == count
    if form == "json":
        line = json.loads(lines[0])
        assert (line["stage"], line["taskId"]) == ("submit", done.stdout.strip())


def test_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTASK_LOG", "xml")
    with pytest.raises(lt.ConfigError, match="LONGTASK_LOG"):
        lt.Settings(_env_file=None)
