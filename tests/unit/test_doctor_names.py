"""What `longtask doctor` tells of names and values alone."""

import pytest

import longtask_kit as lt
from longtask_kit.cli.doctor_names import (
    examine_names,
    examine_place,
    examine_spelling,
    examine_values,
)


@pytest.mark.parametrize(
    ("values", "subject", "verdict", "told"),
    [
        ({}, "QSTASH_TOKEN", "fails", "console.upstash.com"),
        ({"qstash_url": "https://qstash.upstash.io/v2/publish"}, "QSTASH_URL", "fails", "origin"),
        ({"qstash_url": "http://qstash.upstash.io"}, "QSTASH_URL", "fails", "https"),
        (
            {"upstash_redis_rest_url": "http://eu.upstash.io"},
            "UPSTASH_REDIS_REST_URL",
            "fails",
            "https",
        ),
        ({"openai_base_url": "http://10.0.0.2:8000/v1"}, "OPENAI_BASE_URL", "note", "https"),
        ({"base_url": "http://127.0.0.1:8000"}, "LONGTASK_BASE_URL", "fails", "tunnel"),
    ],
)
def test_a_value_that_cannot_be_right_is_told_with_its_cure(
    values: dict[str, str], subject: str, verdict: str, told: str
) -> None:
    findings = [*examine_names(lt.Settings(_env_file=None, **values))]
    assert any((f.subject, f.verdict) == (subject, verdict) and told in f.detail for f in findings)


def test_http_on_this_machine_is_right(settings: lt.Settings) -> None:
    assert not [finding for finding in examine_names(settings) if finding.verdict == "fails"]


def test_blanks_and_quotes_around_a_value_are_told_without_it() -> None:
    values = {"QSTASH_TOKEN": " canary", "OPENAI_API_KEY": '"canary"', "PATH": " of others "}
    blank, quoted = examine_values(values | {"LONGTASK_MODEL": "right"})
    assert (blank.subject, blank.verdict) == ("QSTASH_TOKEN", "note")
    assert (quoted.subject, quoted.verdict) == ("OPENAI_API_KEY", "fails")
    assert "canary" not in blank.detail + quoted.detail


def test_what_is_used_for_a_model_says_why() -> None:
    *_, used = examine_place(["openai_api_key", "HOME"], ["QSTASH_URL"], "model m at h")
    assert used.detail == "model m at h (because of OPENAI_API_KEY)"
    sets, provides, used = examine_place([], ["QSTASH_URL"], "demo")
    assert (sets.detail, provides.detail) == ("nothing of ours", "QSTASH_URL")
    assert "no key is named" in used.detail


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LONGTASK_MODLE", "LONGTASK_MODEL"),
        ("LONG_TASK_BASE_URL", "LONGTASK_BASE_URL"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("QSTASH_CURENT_SIGNING_KEY", "QSTASH_CURRENT_SIGNING_KEY"),
        ("UPSTASH_REDIS_TOKEN", "UPSTASH_REDIS_REST_TOKEN"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    [found] = examine_spelling([name])
    assert (found.subject, found.verdict) == (name, "doubt")
    assert found.detail == f"is no name of ours: did you mean {meant}?"
    assert not name.startswith("LONGTASK_") or [*examine_spelling([name, meant])]


def test_names_of_ours_and_of_other_programs_are_no_slip() -> None:
    others = ["UPSTASH_VECTOR_REST_URL", "UPSTASH_REDIS_REST_READ_ONLY_TOKEN", "OPENAI_ADMIN_KEY"]
    ours = ["LONGTASK_HOME", "NEXT_PUBLIC_BASE_URL", "OPENAI_ORG_ID", "LONGTASK_TTL_S", "PATH"]
    assert [*examine_spelling([*others, *ours])] == []
    [found] = examine_spelling(["LONGTASK_COLOUR"])
    assert "nobody reads it" in found.detail
