"""Settings: environment names, `.env`, what is refused, and that no secret shows."""

import os
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from longtask_kit.errors import ConfigError
from longtask_kit.server.app import create_app
from longtask_kit.settings import (
    CLIENT_NAMES,
    SERVER_NAMES,
    SIGNING_NAMES,
    WHERE,
    Settings,
    is_loopback,
    secret,
)

SECRET_FIELDS = {
    "qstash_token": "QSTASH_TOKEN",
    "qstash_current_signing_key": "QSTASH_CURRENT_SIGNING_KEY",
    "qstash_next_signing_key": "QSTASH_NEXT_SIGNING_KEY",
    "upstash_redis_rest_token": "UPSTASH_REDIS_REST_TOKEN",
    "openai_api_key": "OPENAI_API_KEY",
    "api_key": "LONGTASK_API_KEY",
}
HOSTED = "https://eu1.upstash.io"
LOCAL = "http://127.0.0.1:8079"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("QSTASH_", "UPSTASH_", "OPENAI_", "LONGTASK_", "NEXT_PUBLIC_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write_env_file(*lines: str) -> None:
    Path(".env").write_text("\n".join(lines) + "\n", encoding="utf-8")


NAMES = [
    ("QSTASH_TOKEN", "qstash_token", "tok"),
    ("QSTASH_CURRENT_SIGNING_KEY", "qstash_current_signing_key", "sig_1"),
    ("QSTASH_NEXT_SIGNING_KEY", "qstash_next_signing_key", "sig_2"),
    ("UPSTASH_REDIS_REST_URL", "upstash_redis_rest_url", "https://eu1.upstash.io"),
    ("UPSTASH_REDIS_REST_TOKEN", "upstash_redis_rest_token", "tok"),
    ("OPENAI_API_KEY", "openai_api_key", "sk-1"),
    ("OPENAI_BASE_URL", "openai_base_url", "https://llm.example.com/v1"),
    ("NEXT_PUBLIC_BASE_URL", "base_url", "https://next.example.com"),
    ("LONGTASK_BASE_URL", "base_url", "https://app.example.com/mount"),
    ("QSTASH_URL", "qstash_url", "http://127.0.0.1:8080"),
    ("LONGTASK_API_KEY", "api_key", "key"),
    ("LONGTASK_CORS_ORIGINS", "cors_origins", "https://a.example, https://b.example:8443"),
    ("LONGTASK_DEV", "dev", "1"),
    ("LONGTASK_MODEL", "model", "gpt-5"),
    ("LONGTASK_RETRIES", "retries", "0"),
    ("LONGTASK_TTL_S", "ttl_s", "3600"),
    ("LONGTASK_LEASE_S", "lease_s", "2.5"),
    ("LONGTASK_MODEL_TIMEOUT_S", "model_timeout_s", "0.5"),
    ("LONGTASK_MIN_FLUSH_INTERVAL_S", "min_flush_interval_s", "0.25"),
]


def value_of(name: str) -> object:
    """Return a setting's plain value."""
    value = getattr(Settings(), name)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.mark.parametrize(("variable", "field", "text"), NAMES)
def test_a_setting_is_read_from_its_environment_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str, text: str
) -> None:
    before = value_of(field)
    monkeypatch.setenv(variable, text)
    value = value_of(field)
    assert value != before
    assert str(value) == ("True" if text == "1" else text)


@pytest.mark.parametrize(("variable", "field", "text"), NAMES)
def test_a_setting_is_read_from_the_env_file(variable: str, field: str, text: str) -> None:
    write_env_file("# a comment", f'{variable}="{text}"', "SOMETHING_ELSE=1")
    assert str(value_of(field)) == ("True" if text == "1" else text)


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_env_file("LONGTASK_MODEL=from-file")
    monkeypatch.setenv("LONGTASK_MODEL", "from-environment")
    assert Settings().model == "from-environment"


@pytest.mark.parametrize(("variable", "field", "text"), NAMES)
def test_an_argument_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    other = {"dev": False, "retries": 7, "ttl_s": 77, "lease_s": 7.0, "model_timeout_s": 7.0}
    other |= {"min_flush_interval_s": 7.0}
    argument = other.get(field, "https://argument.example.com")
    value = getattr(Settings(**{field: argument}), field)
    assert (secret(value) if isinstance(value, SecretStr) else value) == argument


def test_longtask_base_url_wins_over_the_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXT_PUBLIC_BASE_URL", "https://next.example.com")
    monkeypatch.setenv("LONGTASK_BASE_URL", "https://app.example.com")
    assert Settings().base_url == "https://app.example.com"


def test_an_empty_longtask_base_url_leaves_the_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXT_PUBLIC_BASE_URL", "https://next.example.com")
    monkeypatch.setenv("LONGTASK_BASE_URL", "")
    assert Settings().base_url == "https://next.example.com"


@pytest.mark.parametrize(("variable", "field"), [(name, field) for name, field, _ in NAMES])
def test_an_empty_variable_counts_as_not_set(
    monkeypatch: pytest.MonkeyPatch, variable: str, field: str
) -> None:
    default = value_of(field)
    monkeypatch.setenv(variable, "")
    assert value_of(field) == default
    monkeypatch.delenv(variable)
    write_env_file(f"{variable}=")
    assert value_of(field) == default


def test_nothing_set_is_fine() -> None:
    settings = Settings()
    assert (settings.model, settings.retries, settings.dev) == ("gpt-4o-mini", 3, False)
    assert settings.qstash_url == "https://qstash.upstash.io"
    assert settings.ttl_s == 7 * 86_400


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LONGTASK_BASE_URL", "app.example.com"),
        ("LONGTASK_BASE_URL", "ftp://app.example.com"),
        ("LONGTASK_BASE_URL", "https://"),
        ("LONGTASK_BASE_URL", "https:///path"),
        ("LONGTASK_BASE_URL", "https://app example.com"),
        ("QSTASH_URL", "qstash.upstash.io"),
        ("UPSTASH_REDIS_REST_URL", "redis://localhost:6379"),
        ("UPSTASH_REDIS_REST_URL", "https://[abc"),
        ("OPENAI_BASE_URL", "x"),
        ("LONGTASK_CORS_ORIGINS", "app.example.com"),
        ("LONGTASK_CORS_ORIGINS", "https://app.example.com/"),
        ("LONGTASK_CORS_ORIGINS", "https://app.example.com,https://app.example.com/path"),
        ("LONGTASK_CORS_ORIGINS", '["https://app.example.com"]'),
        ("LONGTASK_CORS_ORIGINS", "*.example.com"),
        ("LONGTASK_DEV", "maybe"),
        ("LONGTASK_MODEL", "m" * 201),
        ("LONGTASK_RETRIES", "many"),
        ("LONGTASK_RETRIES", "-1"),
        ("LONGTASK_RETRIES", "101"),
        ("LONGTASK_RETRIES", "1.5"),
        ("LONGTASK_TTL_S", "59"),
        ("LONGTASK_TTL_S", "9" * 25),
        ("LONGTASK_LEASE_S", "0.9"),
        ("LONGTASK_LEASE_S", "nan"),
        ("LONGTASK_LEASE_S", "inf"),
        ("LONGTASK_MODEL_TIMEOUT_S", "0"),
        ("LONGTASK_MODEL_TIMEOUT_S", "nan"),
        ("LONGTASK_MIN_FLUSH_INTERVAL_S", "-0.1"),
        ("LONGTASK_MIN_FLUSH_INTERVAL_S", "10.1"),
        ("LONGTASK_MIN_FLUSH_INTERVAL_S", "nan"),
    ],
)
def test_a_wrong_value_is_a_config_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=rf"(?m)^  {variable}: "):
        Settings()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:0",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:port",
        "http://127.0.0.1:8000:8000",
        "http://:8000",
        "http://[::1",
        "http://[::g]",
        "http://a..example.com",
        "http://" + "a" * 64 + ".com",
        "https://user:password@app.example.com",
        "https://app.example.com?a=1",
        "https://app.example.com#a",
    ],
)
@pytest.mark.parametrize(
    "variable",
    [variable for variable, _, _ in NAMES if variable.endswith("_URL")],
)
def test_a_url_that_can_not_be_called_is_a_config_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    shown = "LONGTASK_BASE_URL" if variable == "NEXT_PUBLIC_BASE_URL" else variable
    with pytest.raises(ConfigError, match=rf"(?m)^  {shown}: expected a URL") as caught:
        Settings()
    assert url not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        (
            "OPENAI_BASE_URL",
            "127.0.0.1:11434/v1",
            "is '127.0.0.1:11434/v1': expected a URL like http://127.0.0.1:11434/v1",
        ),
        (
            "LONGTASK_BASE_URL",
            "app.example.com",
            "is 'app.example.com': expected a URL like https://app.example.com",
        ),
        ("LONGTASK_BASE_URL", "ftp://x.org", "is 'ftp://x.org': expected a URL like https://"),
        ("LONGTASK_TTL_S", "abc", "is 'abc': expected a whole number from 60 to 315,360,000"),
        ("LONGTASK_RETRIES", "1.5", "is '1.5': expected a whole number from 0 to 100"),
        ("LONGTASK_MODEL_TIMEOUT_S", "0", "is '0': expected a number above 0"),
        ("LONGTASK_MAX_DURATION_S", "-1", "is '-1': expected a number above 0, at most 86,400"),
        ("LONGTASK_DEV", "maybe", "is 'maybe': expected 1 or 0"),
        ("LONGTASK_LOG", "loud", "is 'loud': expected one of off, text, json"),
        ("LONGTASK_REPLAY_MODE", "no", "is 'no': expected one of replay, extend, renew"),
        ("LONGTASK_RPM", "-1", "is '-1': expected a whole number, at least 0"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, told: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert f"  {variable}: {told}" in str(caught.value)
    assert caught.value.wrong[variable].startswith(told)


@pytest.mark.parametrize(
    "canary",
    ["sk-proj-canary", "redis://default:canary@eu1.upstash.io:6379", "eyJh.canary" + "x" * 99],
)
def test_a_secret_under_the_name_of_a_url_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, canary: str
) -> None:
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", canary)
    with pytest.raises(ConfigError, match="UPSTASH_REDIS_REST_URL: expected a URL") as caught:
        Settings()
    assert "canary" not in str(caught.value)


def test_origins_are_separated_by_commas_and_none_unless_set() -> None:
    assert Settings().allowed_origins == []
    several = Settings(cors_origins=" https://a.example , http://localhost:3000,")
    assert several.allowed_origins == ["https://a.example", "http://localhost:3000"]
    assert Settings(cors_origins="*").allowed_origins == ["*"]


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000/a", "http://my_service:65535", "https://bücher.example/llm/v2"]
)
def test_an_unusual_url_is_taken(url: str) -> None:
    assert Settings(base_url=url + "/").base_url == url


def test_a_wrong_url_in_the_alias_is_named_by_a_name_that_can_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEXT_PUBLIC_BASE_URL", "app.example.com")
    with pytest.raises(ConfigError, match=r"(?m)^  LONGTASK_BASE_URL: "):
        Settings()


@pytest.mark.parametrize(
    ("field", "value", "variable"),
    [
        ("base_url", "app.example.com", "LONGTASK_BASE_URL"),
        ("model", "", "LONGTASK_MODEL"),
        ("retries", -1, "LONGTASK_RETRIES"),
        ("qstash_url", "x", "QSTASH_URL"),
        ("upstash_redis_rest_url", "x", "UPSTASH_REDIS_REST_URL"),
        ("api_key", 5, "LONGTASK_API_KEY"),
    ],
)
def test_a_wrong_argument_is_named_as_its_variable(
    field: str, value: object, variable: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?m)^  {variable}: "):
        Settings(**{field: value})


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTASK_RETRIES", "many")
    monkeypatch.setenv("QSTASH_URL", "nowhere")
    with pytest.raises(ConfigError, match=r"LONGTASK_RETRIES") as caught:
        Settings()
    assert "QSTASH_URL" in str(caught.value)


def test_an_env_file_in_another_encoding_is_a_config_error() -> None:
    # What `echo QSTASH_TOKEN=… > .env` writes in Windows PowerShell.
    Path(".env").write_bytes("QSTASH_TOKEN=tok\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"\.env"):
        Settings()


# Secrets


def test_every_secret_setting_is_known_to_these_tests() -> None:
    found = {
        name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
    }
    assert found == set(SECRET_FIELDS)


def test_no_secret_shows_in_any_text_of_the_settings() -> None:
    canaries = {field: f"canary-{field}" for field in SECRET_FIELDS}
    settings = Settings(**canaries)
    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    assert [text for text in shown if "canary" in text] == []
    assert [secret(getattr(settings, field)) for field in canaries] == list(canaries.values())


def test_no_secret_shows_in_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SECRET_FIELDS.values():
        monkeypatch.setenv(variable, f"canary-{variable}")
    monkeypatch.setenv("LONGTASK_RETRIES", "canary-retries")
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "canary-url")  # a token pasted into the wrong row
    with pytest.raises(ConfigError, match="UPSTASH_REDIS_REST_URL") as caught:
        Settings()
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "canary-" not in shown


def test_a_secret_of_a_wrong_type_does_not_show_either() -> None:
    wrong = ["canary-list"]  # not in the call: a traceback shows that line
    with pytest.raises(ConfigError, match="QSTASH_TOKEN") as caught:
        Settings(qstash_token=wrong)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("field", "variable"), list(SECRET_FIELDS.items()))
def test_blanks_around_a_secret_are_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, field: str, variable: str
) -> None:
    # A line feed from `$(cat token)` or a pasted cell makes the HTTP client refuse the header,
    # and its error quotes the whole header, token included.
    monkeypatch.setenv(variable, " tok\r\n")
    assert value_of(field) == "tok"


# What is missing


@pytest.mark.parametrize("variable", SERVER_NAMES)
def test_require_names_what_is_missing_and_where_to_get_it(variable: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings().require(variable)
    assert f"{variable}  ({WHERE[variable]})" in str(caught.value)


def test_require_names_only_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTASH_TOKEN", "tok")
    with pytest.raises(ConfigError) as caught:
        Settings().require(*SERVER_NAMES)
    named = [line.split()[0] for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert named == [name for name in SERVER_NAMES if name != "QSTASH_TOKEN"]


def test_require_returns_the_settings_when_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SERVER_NAMES:
        monkeypatch.setenv(name, "https://x.example.com")
    settings = Settings()
    assert settings.require(*SERVER_NAMES) is settings


def test_what_a_notebook_and_a_server_need_is_pinned() -> None:
    assert CLIENT_NAMES == (
        "QSTASH_TOKEN",
        "UPSTASH_REDIS_REST_URL",
        "UPSTASH_REDIS_REST_TOKEN",
        "LONGTASK_BASE_URL",
    )
    assert set(SERVER_NAMES) == {*CLIENT_NAMES, *SIGNING_NAMES, "OPENAI_API_KEY"}
    assert set(SERVER_NAMES) == set(WHERE)


# What follows from the settings


@pytest.mark.parametrize(
    ("url", "interval", "expected"),
    [
        (LOCAL, None, 0.0),
        ("http://localhost:8079", None, 0.0),
        ("http://[::1]:8079", None, 0.0),
        (HOSTED, None, 0.1),
        ("https://localhost.example.com", None, 0.1),
        (None, None, 0.1),
        (LOCAL, 0.5, 0.5),
        (HOSTED, 0.0, 0.0),
        (HOSTED, 2.0, 2.0),
    ],
)
def test_a_hosted_redis_is_written_less_often(
    url: str | None, interval: float | None, expected: float
) -> None:
    given = {} if interval is None else {"min_flush_interval_s": interval}
    settings = Settings(upstash_redis_rest_url=url, **given)
    assert settings.min_flush_interval_s == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 3616.08),
        ({"retries": 0}, 600.0),
        ({"retries": 100}, 172_800.0),
        ({"retries": 0, "lease_s": 3600.0}, 7200.0),
        ({"retries": 100, "deadline_s": 5.0}, 5.0),
    ],
)
def test_a_task_counts_as_lost_after_twice_what_the_queue_may_wait(
    given: dict[str, Any], expected: float
) -> None:
    assert Settings(**given).deadline_s == pytest.approx(expected, abs=0.01)


def test_a_wrong_setting_is_told_once_also_where_another_is_found_by_it() -> None:
    with pytest.raises(ConfigError) as refused:
        Settings(retries=-1, upstash_redis_rest_url="nonsense")
    rows = str(refused.value).splitlines()[1:]
    assert [row.split(":")[0].strip() for row in rows] == [
        "UPSTASH_REDIS_REST_URL",
        "LONGTASK_RETRIES",
    ]


@pytest.mark.parametrize(
    ("url", "lease_s", "expected"),
    [
        (LOCAL, 15.0, 1.0),
        (LOCAL, 3.0, 1.0),
        (LOCAL, 1.5, 0.5),
        (HOSTED, 15.0, 5.0),
        (HOSTED, 60.0, 5.0),
        (HOSTED, 6.0, 2.0),
    ],
)
def test_a_silent_attempt_renews_its_lease_at_least_three_times_in_it(
    url: str, lease_s: float, expected: float
) -> None:
    settings = Settings(upstash_redis_rest_url=url, lease_s=lease_s)
    assert settings.heartbeat_s == pytest.approx(expected)
    assert settings.heartbeat_s * 3 <= lease_s


@pytest.mark.parametrize(
    "field", ["base_url", "qstash_url", "upstash_redis_rest_url", "openai_base_url"]
)
@pytest.mark.parametrize("ending", ["", "/", "//"])
def test_a_trailing_slash_is_stripped_since_paths_are_appended(field: str, ending: str) -> None:
    settings = Settings(**{field: f"https://x.example.com/v1{ending}"})
    assert getattr(settings, field) == "https://x.example.com/v1"


def test_the_callback_urls_lie_below_the_base_url_with_its_mount_prefix() -> None:
    settings = Settings(base_url="https://app.example.com/mount/")
    assert settings.webhook_url == "https://app.example.com/mount/api/qstash/webhook"
    assert settings.failure_url == "https://app.example.com/mount/api/qstash/failure"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1", True),
        ("https://LOCALHOST:1/x", True),
        ("http://[::1]/", True),
        ("http://127.0.0.1.example.com", False),
        ("http://127.0.0.1@evil.example.com", False),
        ("http://10.0.0.1", False),
        ("127.0.0.1", False),
        ("", False),
        (None, False),
    ],
)
def test_a_loopback_url_is_told_by_its_host_alone(url: str | None, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_settings_can_not_be_changed_later() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.retries = 5
    assert settings.retries == 3


def test_an_unset_secret_is_empty_text() -> None:
    assert secret(None) == ""


def test_an_app_with_nothing_set_is_told_how_to_try_it() -> None:
    with pytest.raises(ConfigError, match="run `longtask up` and export what it prints"):
        create_app(Settings(_env_file=None))
    with pytest.raises(ConfigError, match="unset all Upstash variables"):
        create_app(Settings(_env_file=None, qstash_token="one"))


def test_a_hosts_time_limit_is_read_by_our_name_or_vercels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings(_env_file=None).max_duration_s is None
    monkeypatch.setenv("VERCEL_FUNCTION_MAX_DURATION", "300")
    assert Settings(_env_file=None).max_duration_s == 300
    monkeypatch.setenv("LONGTASK_MAX_DURATION_S", "60")
    assert Settings(_env_file=None).max_duration_s == 60


def test_the_table_of_times_has_each_of_them() -> None:
    names = {*Settings.model_fields, *vars(Settings)}
    times = {name for name in names if re.fullmatch(r"[a-z]\w*_s", name)}
    told = set(re.findall(r"^ *\| `(\w+)` \| s \|", Settings.__doc__ or "", re.MULTILINE))
    assert told == times
