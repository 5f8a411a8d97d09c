"""Task ids, and the names of a task's things in Redis."""

import re

import pytest

from longtask_kit.log.keys import (
    TASK_INDEX,
    channel_name,
    is_task_id,
    log_key,
    new_task_id,
    task_key,
)

SEEDS_ID = "task_1234567890_abcdef123"


def test_a_new_id_is_url_safe_and_holds_128_bits() -> None:
    task_id = new_task_id()
    assert is_task_id(task_id)
    assert re.fullmatch(r"task_[A-Za-z0-9_-]{22}", task_id)


def test_new_ids_differ() -> None:
    assert len({new_task_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SEEDS_ID, True),
        ("task_" + "a" * 8, True),
        ("task_" + "a" * 64, True),
        ("task_-_-_-_-_", True),
        ("task_" + "a" * 7, False),
        ("task_" + "a" * 65, False),
        ("", False),
        ("task_", False),
        ("Task_12345678", False),
        ("12345678", False),
        (" task_12345678", False),
        ("task_12345678\n", False),
        ("task_1234 5678", False),
        ("task_1234/5678", False),
        ("task_1234}5678", False),
        ("task_../../etc", False),
        ("task_1234*5678", False),
        ("task_1234,5678", False),
        ("task_1234\x005678", False),
        ("task_éééééééé", False),
        ("task_١٢٣٤٥٦٧٨", False),
    ],
)
def test_only_safe_characters_make_a_task_id(value: str, expected: bool) -> None:
    assert is_task_id(value) is expected


def test_the_keys_of_a_task_lie_in_one_cluster_slot() -> None:
    tags = [re.findall(r"\{(.*?)\}", key) for key in (task_key(SEEDS_ID), log_key(SEEDS_ID))]
    assert tags == [[SEEDS_ID], [SEEDS_ID]]


def test_the_names_in_redis_are_pinned_since_other_readers_know_them() -> None:
    assert task_key(SEEDS_ID) == f"longtask:{{{SEEDS_ID}}}"
    assert log_key(SEEDS_ID) == f"longtask:{{{SEEDS_ID}}}:log"
    assert channel_name(SEEDS_ID) == f"longtask:{SEEDS_ID}"
    assert TASK_INDEX == "longtask:tasks"


def test_a_channel_travels_in_a_url_path_unchanged() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_:-]+", channel_name(new_task_id()))
