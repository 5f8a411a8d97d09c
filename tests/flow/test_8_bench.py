"""`longtask bench` on real services."""

import json
from pathlib import Path

import pytest

import longtask_kit as lt
from tests.command import Done, longtask


def bench(stack: lt.LocalStack, *arguments: str, **environment: str) -> Done:
    return longtask("bench", *arguments, **stack.environment | environment)


def test_it_says_how_long_each_stage_takes_and_what_limits(stack: lt.LocalStack) -> None:
    done = bench(stack, "--tasks", "3", "--at-once", "2", "--max-tokens", "30", "--model=demo@100")

    assert done.returncode == 0, done.stderr
    assert "time to first token" in done.stdout
    assert "Redis commands" in done.stdout
    assert "the rate is the model's (" in done.stdout
    assert stack.environment["LONGTASK_BASE_URL"] in done.stderr


def test_its_json_counts_what_was_done(stack: lt.LocalStack) -> None:
    done = bench(stack, "--tasks", "2", "--max-tokens", "30", "--model=demo@100", "--json")

    report = json.loads(done.stdout)
    assert (report["tasks"], report["tokens"]) == (2, 60)
    # About one write a token at this pace, and never fewer than begin, text and end.
    assert 3 < report["commands_per_task"] < 100
    assert report["tokens_per_s"] > 0
    assert 0 <= report["delay_p50_ms"] <= report["delay_p99_ms"]
    assert report["limit"].endswith(".")


def test_a_task_that_fails_ends_it_with_the_reason(stack: lt.LocalStack) -> None:
    done = bench(stack, "--tasks", "1", "--model=demo-error-400")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("TaskFailedError: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-tokens", "0"], '"--max-tokens" is 0'),
        (["--model", "gpt-4o-mini"], "The model 'gpt-4o-mini' is none of the local stack's"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_started(
    home: Path, options: list[str], told: str
) -> None:
    done = longtask("bench", *options)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert lt.LocalStack.find() is None


def test_what_is_missing_is_named(stack: lt.LocalStack) -> None:
    done = bench(stack, UPSTASH_REDIS_REST_TOKEN="")

    assert done.returncode == 1
    assert "UPSTASH_REDIS_REST_TOKEN" in done.stderr
