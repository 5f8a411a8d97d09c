"""Where the tasks of a kit go that replays a cassette: to the recording, or to the real model."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from longtask_kit.cassettes import Cassette
from longtask_kit.client.cassette import (
    check_redact,
    find_file,
    load_cassette,
    make_question,
    redact_messages,
)
from longtask_kit.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from longtask_kit.client.cassette import Redact
    from longtask_kit.settings import Settings
    from longtask_kit.submit.endpoint import Endpoint
    from longtask_kit.submit.spec import TaskSpec

ALONE = "LONGTASK_REPLAY_ALONE"
"""Set where notebooks are only looked through: whatever mode they name, no model is asked."""

_SHOWN_LINES = 3

Mode = Literal["replay", "extend", "renew"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """A cassette as `connect()` was given it.

    Attributes:
        path: The file, a whole path.
        mode: Who is asked: nobody, the model for what is missing, or the model for all.
        speed: 1 is the recorded pace, 0 no pace.
        redact: From messages to those that are recorded.
    """

    path: Path
    mode: Mode = "replay"
    speed: float = 1.0
    redact: Redact | None = None

    @property
    def place(self) -> str:
        """What stands for a model service's URL: a replayed answer is never kept as a model's.

        Another content of the file is another place: what was replayed of it is no answer of this.
        """
        text = self.path.read_bytes() if self.path.exists() else b""
        return f"{self.mode}:{self.path.name}:{hashlib.sha256(text).hexdigest()[:16]}"

    def read(self) -> Cassette:
        """Return what it holds.

        Raises:
            ConfigError: It can't be read; or, to be replayed, it is not there.
        """
        is_new = self.mode != "replay" and not self.path.exists()
        return Cassette() if is_new else load_cassette(self.path)

    def describe(self, cassette: Cassette) -> str:
        """Return what is said of it where the kit says whom it asks."""
        name = self.path.name
        told = cassette.describe(name)
        if self.mode == "renew":
            told = f"recorded anew into {name}"
        elif self.mode == "extend":
            told = (
                f"{told}, what is missing is" if cassette.answers else f"what is not in {name} is"
            )
            told += " asked and recorded"
        return "; ".join([told, *cassette.describe_damage(_SHOWN_LINES)])

    def aim_at(self, endpoint: Endpoint) -> Endpoint:
        """Return the stack's own service as what answers from this file."""
        return replace(endpoint, cassette=str(self.path), cassette_speed=f"{self.speed:g}")

    def take(self, spec: TaskSpec, endpoint_id: str, *, sample: int) -> TaskSpec | None:
        """Return a task as it is replayed; None where the model is to be asked."""
        if self.mode == "renew":
            return None
        if self.mode == "extend":
            question = make_question(
                spec.to_wire(), model=spec.model or "", sample=sample, redact=self.redact
            )
            answer = self.read().find(question)
            # What failed is missing still: a wrong key is mended, and would be replayed for ever.
            if answer is None or "error" in answer.attempts[-1]:
                return None
        if self.redact is not None:
            messages = redact_messages(spec, self.redact)
            spec = replace(spec, prompt="", system=None, messages=messages)
        return spec.aim(spec.model, endpoint_id, spec.api)


def find_tape(
    settings: Settings,
    replay: str | os.PathLike[str] | None,
    mode: str | None,
    speed: float | None,
    redact: Redact | None,
) -> Tape | None:
    """Return the cassette that `connect()` or the environment names, if one does.

    Raises:
        ConfigError: A value can't be meant.
    """
    path = replay if replay is not None else settings.replay
    if path is None:
        given = {"mode": mode, "replay_speed": speed, "redact": redact}
        if named := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{' and '.join(named)} go with replay=…, which is not given.")
        return None
    mode = mode if mode is not None else settings.replay_mode
    speed = speed if speed is not None else settings.replay_speed
    check_redact(redact)
    if ALONE in os.environ:
        mode = "replay"
    if mode not in get_args(Mode):
        raise ConfigError(f"`mode` is {mode!r:.40}: expected replay, extend or renew.")
    is_number = isinstance(speed, int | float) and not isinstance(speed, bool)
    if not is_number or not (math.isfinite(speed) and speed >= 0):
        raise ConfigError(
            f"`replay_speed` is {speed!r:.40}: expected 1 for the recorded pace, 2 for twice as "
            "fast, 0 for as fast as it goes."
        )
    return Tape(path=find_file(path), mode=mode, speed=float(speed), redact=redact)  # type: ignore[arg-type]
