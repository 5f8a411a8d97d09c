"""Everything that can be set, by environment variable or `.env`, and what is checked of it.

The names of the hosted services are the services' own; the kit's own begin with `LONGTASK_`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from longtask_kit.errors import ConfigError
from longtask_kit.stages import LogForm  # noqa: TC001 - pydantic reads it
from longtask_kit.wrong_settings import explain_wrong

WEBHOOK_PATH = "/api/qstash/webhook"
FAILURE_PATH = "/api/qstash/failure"
DEMO_LABEL = "Scripted demo: replies are prewritten, not produced by an AI model."
"""What is said of the demo model wherever it answers."""

WHERE = {
    "QSTASH_TOKEN": "console.upstash.com/qstash",
    "QSTASH_CURRENT_SIGNING_KEY": "console.upstash.com/qstash, tab Signing Keys",
    "QSTASH_NEXT_SIGNING_KEY": "console.upstash.com/qstash, tab Signing Keys",
    "UPSTASH_REDIS_REST_URL": "console.upstash.com/redis, your database, REST API",
    "UPSTASH_REDIS_REST_TOKEN": "console.upstash.com/redis, your database, REST API",
    "OPENAI_API_KEY": "platform.openai.com/api-keys, or your OpenAI-compatible provider",
    "LONGTASK_BASE_URL": "the public URL of your webhook app, e.g. https://app.example.com",
}
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})

_Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$")]


class Settings(BaseSettings):
    """The kit's settings, each from `Settings(name=…)`, the environment, or `.env`.

    Empty variables count as not set. Secrets are `SecretStr`: they don't show in a repr.

    Its times, each with one meaning wherever its name stands:

    | name | unit | what it is | default |
    |---|---|---|---|
    | `ttl_s` | s | time to live of a task's record and log after its last event | a week |
    | `lease_s` | s | an attempt that is silent for longer counts as dead | 15 |
    | `heartbeat_s` | s | a silent attempt renews its lease so often | 1 on loopback, else 5 |
    | `deadline_s` | s | a task to which nothing has happened for longer counts as lost | an hour |
    | `max_duration_s` | s | the host ends a request, thus an attempt, after it | none said |
    | `model_timeout_s` | s | a model that is silent for longer fails the attempt | 120 |
    | `min_flush_interval_s` | s | least time between two writes | 0 on loopback, else 0.1 |
    | `limit_hold_s` | s | a task waits in its app so long for a limit, longer in the queue | 20 |
    | `limit_minute_s` | s | the minute of `rpm` and `tpm` | 60 |
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    qstash_token: SecretStr | None = None
    qstash_url: _Url = "https://qstash.upstash.io"
    qstash_current_signing_key: SecretStr | None = None
    qstash_next_signing_key: SecretStr | None = None
    upstash_redis_rest_url: _Url | None = None
    upstash_redis_rest_token: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: _Url | None = None
    base_url: _Url | None = Field(
        None,
        validation_alias=AliasChoices("LONGTASK_BASE_URL", "NEXT_PUBLIC_BASE_URL"),
        description="Public URL below which the webhook app answers, with its mount prefix.",
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias="LONGTASK_API_KEY",
        description="When set, every call of the API needs `Authorization: Bearer <key>`.",
    )
    cors_origins: str = Field(
        "",
        validation_alias="LONGTASK_CORS_ORIGINS",
        description="Web origins whose pages may call create_app(), separated by commas.",
    )
    log: LogForm = Field(
        "off",
        validation_alias="LONGTASK_LOG",
        description="Whether the kit writes its log to stderr by itself: off, text or json.",
    )
    dev: bool = Field(False, validation_alias="LONGTASK_DEV", description="Development mode.")
    model: str = Field(
        "gpt-4o-mini", validation_alias="LONGTASK_MODEL", min_length=1, max_length=200
    )
    retries: int = Field(3, validation_alias="LONGTASK_RETRIES", ge=0, le=100)
    ttl_s: int = Field(
        7 * 86_400,
        validation_alias="LONGTASK_TTL_S",
        ge=60,
        le=10 * 365 * 86_400,
        description="A task's record and log live this long after its last event.",
    )
    lease_s: float = Field(
        15.0,
        validation_alias="LONGTASK_LEASE_S",
        ge=1,
        le=3600,
        description="A silent attempt counts as dead after this; another delivery may take over.",
    )
    model_timeout_s: float = Field(
        120.0,
        validation_alias="LONGTASK_MODEL_TIMEOUT_S",
        gt=0,
        description="Longest silence of the model before the attempt fails as retryable.",
    )
    max_duration_s: float | None = Field(
        None,
        validation_alias=AliasChoices("LONGTASK_MAX_DURATION_S", "VERCEL_FUNCTION_MAX_DURATION"),
        gt=0,
        le=86_400,
        description=(
            "The host ends a request after so long: shortly before, an attempt is handed on if it "
            "can be continued, or else fails; unset: 14 minutes for those that can be."
        ),
    )
    deadline_s: float = Field(
        default_factory=lambda given: _find_deadline_s(given["retries"], given["lease_s"]),
        validation_alias="LONGTASK_DEADLINE_S",
        ge=1,
        description=(
            "A task to which nothing has happened for so long counts as lost and ends as failed; "
            "unset: twice the queue's longest wait between retries, about an hour with three."
        ),
    )
    min_flush_interval_s: float = Field(
        # Hosted Redis bills by the command, loopback does not.
        default_factory=lambda given: 0.0 if is_loopback(given["upstash_redis_rest_url"]) else 0.1,
        validation_alias="LONGTASK_MIN_FLUSH_INTERVAL_S",
        ge=0,
        le=10,
        description="Least time between two writes; unset: 0 on a loopback Redis, 0.1 elsewhere.",
    )

    page_writes: bool = Field(
        True,
        validation_alias="LONGTASK_PAGE_WRITES",
        description="Whether the page keeps tasks in the notebook it shows by writing into it.",
    )
    record: str | None = Field(
        None,
        validation_alias="LONGTASK_RECORD",
        description="Cassette into which a kit records what it submits, as `kit.record()` does.",
    )
    replay: str | None = Field(
        None,
        validation_alias="LONGTASK_REPLAY",
        description="Cassette that `connect()` replays, with the local stack; see README.",
    )
    replay_mode: str = Field(
        "replay",
        validation_alias="LONGTASK_REPLAY_MODE",
        pattern="^(replay|extend|renew)$",
        description="Who is asked: nobody, the model for what is missing, the model for all.",
    )
    replay_speed: float = Field(
        1.0,
        validation_alias="LONGTASK_REPLAY_SPEED",
        ge=0,
        le=1_000_000,
        description="1 is the recorded pace, 2 twice as fast, 0 as fast as it goes.",
    )
    rpm: int = Field(
        0,
        validation_alias="LONGTASK_RPM",
        ge=0,
        description="Requests a minute to a model, of all apps and groups together; 0: no limit.",
    )
    tpm: int = Field(
        0,
        validation_alias="LONGTASK_TPM",
        ge=0,
        description="Tokens a minute to a model, of all apps and groups together; 0: no limit.",
    )
    limit_hold_s: float = Field(
        20.0,
        validation_alias="LONGTASK_LIMIT_HOLD_S",
        ge=0,
        le=600,
        description="For longer than this a delivery waits for no limit: its task is handed on.",
    )
    limit_minute_s: float = Field(
        60.0,
        validation_alias="LONGTASK_LIMIT_MINUTE_S",
        gt=0,
        le=3600,
        description="What these limits take for a minute; another one is for tests.",
    )

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - pydantic-settings' own signature
        try:
            super().__init__(**values)
        except UnicodeDecodeError as exc:
            raise ConfigError(
                f"The .env file is not UTF-8 ({exc.reason}); save it as UTF-8."
            ) from None
        except ValidationError as exc:
            wrong = dict(explain_wrong(exc, type(self).model_fields))
            rows = "".join(f"\n  {name}: {text}" for name, text in wrong.items())
            text = f"Wrong settings in the environment or .env:{rows}"
            raise ConfigError(text, wrong=wrong) from None  # its own could quote a secret

    @field_validator(
        "qstash_token",
        "qstash_current_signing_key",
        "qstash_next_signing_key",
        "upstash_redis_rest_token",
        "openai_api_key",
        "api_key",
    )
    @classmethod
    def _strip_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value().strip()
        check_secret(text)
        return SecretStr(text)

    @field_validator("base_url", "qstash_url", "upstash_redis_rest_url", "openai_base_url")
    @classmethod
    def _strip_slash(cls, url: str | None) -> str | None:
        # The queue signs the exact URL, and the SDKs join paths by concatenation.
        return check_url(url) if url else url

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        for origin in _split(origins):
            # A browser sends neither path nor last slash, and is met letter by letter.
            if origin != "*" and (check_url(origin) != origin or urlsplit(origin).path):
                raise ValueError("expected origins like https://app.example.com, without a path")
        return origins

    @property
    def allowed_origins(self) -> list[str]:
        """Web origins whose pages may call the app; none unless set."""
        return _split(self.cors_origins)

    @property
    def webhook_url(self) -> str:
        """The URL that deliveries are sent to and signatures are checked against."""
        return f"{self.base_url}{WEBHOOK_PATH}"

    @property
    def failure_url(self) -> str:
        """The URL of the failure callback."""
        return f"{self.base_url}{FAILURE_PATH}"

    @property
    def has_loopback_redis(self) -> bool:
        """Whether Redis is on this machine, where a round trip costs nothing."""
        return is_loopback(self.upstash_redis_rest_url)

    @property
    def heartbeat_s(self) -> float:
        """How often a silent attempt renews its lease and looks for a cancel."""
        return min(self.lease_s / 3, 1.0 if self.has_loopback_redis else 5.0)

    def require(self, *names: str) -> Self:
        """Check that settings are there, by environment name.

        Raises:
            ConfigError: Some are missing; the message names each and where to get it.
        """
        missing = [name for name in names if self.find(name) is None]
        if missing:
            rows = "\n".join(f"  {name}  ({WHERE.get(name, 'see README')})" for name in missing)
            cure = (
                "Set them; or, to try an app of yours on the local stack, run `longtask up` and "
                "export what it prints."
                if 1 < len(missing) == len(names)
                else "Set them, or unset all Upstash variables to use the local stack; "
                "`longtask doctor` checks every name."
            )
            raise ConfigError(f"Not set in the environment or .env:\n{rows}\n{cure}")
        return self

    def find(self, name: str) -> str | SecretStr | None:
        """Return a setting by its environment name, or None where it is not set."""
        value: str | SecretStr | None = getattr(self, name.lower().removeprefix("longtask_"))
        return value


CLIENT_NAMES = (
    "QSTASH_TOKEN",
    "UPSTASH_REDIS_REST_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "LONGTASK_BASE_URL",
)
"""What a notebook needs to submit and follow."""

SIGNING_NAMES = ("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")
"""What the webhook needs to know a delivery from a forgery."""

SERVER_NAMES = (*CLIENT_NAMES, *SIGNING_NAMES, "OPENAI_API_KEY")
"""What the webhook app needs."""


def check_url(url: str) -> str:
    """Return a base URL without its last slash.

    Raises:
        ValueError: It can't be one. The message does not quote it, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        is_readable = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # UnicodeError is one
        is_readable = False
    if not is_readable or parts.scheme not in ("http", "https"):
        raise ValueError(
            "expected a URL like https://app.example.com, with a port from 1 to 65535 if any"
        )
    if parts.username is not None or parts.query or parts.fragment:
        # URLs are shown, logged and sent to the queue; and paths are added at their end.
        raise ValueError("expected a URL without user, password, query (?) and fragment (#)")
    return url.rstrip("/")


def check_secret(text: str) -> None:
    """Check that a token can travel in an HTTP header.

    Raises:
        ValueError: It can't. The message does not quote it.
    """
    if not text:  # an empty key would let everybody in
        raise ValueError("is blank: set it, or leave it out")
    if not (text.isascii() and text.isprintable()):
        raise ValueError("holds a character that no HTTP header can carry: copy it again")


def is_loopback(url: str | None) -> bool:
    """Tell whether a URL's host is this machine's loopback interface."""
    try:
        return url is not None and urlsplit(url).hostname in _LOOPBACK_HOSTS
    except ValueError:  # a Host header is whatever its sender likes
        return False


def secret(value: SecretStr | None) -> str:
    """Return a secret's text; only for handing it to an SDK."""
    return value.get_secret_value() if value is not None else ""


def _find_deadline_s(retries: int, lease_s: float) -> float:
    # QStash's backoff: min(86400, e ** (2.5 * retried)) seconds, upstash.com/docs/qstash.
    longest_wait_s = min(86_400.0, math.exp(2.5 * min(retries, 10)))
    return 2 * max(longest_wait_s, lease_s, 300.0)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
