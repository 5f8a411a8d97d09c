"""What a stack keeps over restarts, and what happens when that is damaged."""

import json
from pathlib import Path

import pytest

import longtask_kit as lt
from longtask_kit.local.identity import keep_former, load_identity, save_identity


def test_an_identity_is_kept(tmp_path: Path) -> None:
    identity = load_identity(tmp_path)
    save_identity(tmp_path, identity)
    assert load_identity(tmp_path) == identity


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"ports": {"app": "x"}}', '{"redis_token": ""}', "[" * 100_000],
    ids=range(6),
)
def test_a_damaged_identity_is_an_error_with_the_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(lt.LocalStackError, match=f"{tmp_path}/identity.json.*delete it"):
        load_identity(tmp_path)


def test_a_damaged_identity_reaches_whoever_starts_the_stack(home: Path, tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(lt.LocalStackError, match="delete it"):
        lt.LocalStack.start(tmp_path)
    assert (tmp_path / "identity.json").read_text() == "{", "nothing is thrown away unasked"


def test_a_missing_part_is_made_anew_and_the_rest_kept(home: Path, tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text(json.dumps({"redis_token": "mine"}))
    with lt.LocalStack.start(tmp_path) as stack:
        assert stack.environment["UPSTASH_REDIS_REST_TOKEN"] == "mine"
        assert stack.environment["QSTASH_TOKEN"]


def test_the_apps_former_origins_are_bounded_and_the_latest_ones_stay() -> None:
    origins = [f"http://127.0.0.1:{port}" for port in range(1000, 1100)]
    assert keep_former(origins, "http://127.0.0.1:1099") == origins[-21:-1]
    assert keep_former(["a", "b", "a"], "c") == ["b", "a"]
    assert keep_former(["a", "b"], "b") == ["a"], "what the app has again is not former"
