"""The model services that kernels gave to the local stack: a file each, for the user's eyes only.

Files, and no call to the stack: they outlive its restarts, and no service can be asked for a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from longtask_kit.local.files import make_private_folder, write_private
from longtask_kit.local.model.installed import find_installed, list_models
from longtask_kit.local.model.request import MODELS, ApiError, find_model
from longtask_kit.settings import DEMO_LABEL
from longtask_kit.submit.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from longtask_kit.server.endpoints import EndpointsHandler
    from longtask_kit.server.guests import Guests
    from longtask_kit.settings import Settings

UNUSED_DAYS = 30
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEndpoint:
    """One that is kept, as it may be shown.

    Attributes:
        host: Of the model service.
        last_used: When it was given, or a task last asked it.
    """

    host: str
    last_used: datetime


class EndpointFiles:
    """The endpoints in a stack's data folder; what is unused for 30 days is removed.

    Args:
        data_dir: The stack's data folder.
        secret: Of the stack: makes ids that tell nobody else what is behind them. Whoever only
            looks them up needs none.
    """

    def __init__(self, data_dir: Path, *, secret: str = "") -> None:
        self._folder = data_dir / "endpoints"
        self._secret = secret

    def make_id(self, endpoint: Endpoint) -> str:
        """Return an endpoint's id, the same whenever it is given again."""
        return endpoint.make_id(self._secret)

    def keep(self, endpoint: Endpoint) -> str:
        """Keep an endpoint and return its id.

        Raises:
            LocalStackError: The folder can't be made or written to.
        """
        make_private_folder(self._folder, "choose another with LONGTASK_HOME")
        self.remove_unused()
        endpoint_id = self.make_id(endpoint)
        write_private(self._path(endpoint_id), endpoint.to_json())
        return endpoint_id

    def has(self, endpoint_id: str) -> bool:
        """Tell whether it is there."""
        return self._read(self._path(endpoint_id)) is not None

    def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint and note that it is used now; None when it is not there."""
        path = self._path(endpoint_id)
        endpoint = self._read(path)
        if endpoint is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return endpoint

    def list(self) -> list[KeptEndpoint]:
        """Return what is kept, last used first."""
        found = [(e, at) for _, e, at in self._read_all() if e.cassette is None]
        kept = [KeptEndpoint(host=e.host, last_used=at) for e, at in found]
        return sorted(kept, key=lambda kept: kept.last_used, reverse=True)

    def forget(self, host: str | None = None) -> int:
        """Remove the endpoints of a host, or all; returns how many there were."""
        gone = [path for path, endpoint, _ in self._read_all() if host in (None, endpoint.host)]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def remove_unused(self) -> None:
        """Remove what nobody has used for so long."""
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if _is_unused(path):
                    path.unlink()

    def _path(self, endpoint_id: str) -> Path:
        # It comes from a task's record: it must lead to no other file.
        name = endpoint_id if _ID.fullmatch(endpoint_id) else "none"
        return self._folder / f"{name}.json"

    def _read(self, path: Path) -> Endpoint | None:
        try:
            return None if _is_unused(path) else Endpoint.from_json(path.read_text())
        except (OSError, ValueError, RecursionError):
            return None

    def _read_all(self) -> Iterator[tuple[Path, Endpoint, datetime]]:
        self.remove_unused()
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError):
                last_used = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if (endpoint := self._read(path)) is not None:
                    yield path, endpoint, last_used


async def remove_unused_daily(data_dir: Path) -> None:
    """Keep a stack's endpoints free of what is unused, for as long as it runs."""
    while True:
        EndpointFiles(data_dir).remove_unused()
        await asyncio.sleep(86_400)


def is_of_stack(model: str) -> bool:
    """Tell whether the stack's own model service has a model of this name: demo, or installed."""
    try:
        find_model(model)
    except ApiError:
        return find_installed(model) is not None
    return True


def list_own() -> list[str]:
    """Return the names of the stack's own models."""
    return [*(model.name for model in MODELS), *(model.name for model in list_models())]


def describe_stack(description: str, model: str | None) -> str:
    """Return where tasks go, with what is to be said of the stack's own model that is named.

    Args:
        description: Of the local stack; it says that its demo model is scripted.
        model: The name; None is the default.
    """
    found = find_installed(model) if model else None
    return description.replace(DEMO_LABEL, found.about) if found else description


def make_model_handler(settings: Settings, data_dir: Path) -> EndpointsHandler:
    """Return what runs tasks in an app of this stack: at their endpoints, or at its own service."""
    from longtask_kit.server.endpoints import EndpointsHandler

    return EndpointsHandler(settings, known=EndpointFiles(data_dir), is_own=is_of_stack)


def make_guests(environment: Mapping[str, str]) -> Guests:
    """Return what whoever comes without the key may do in an app of this stack."""
    from longtask_kit.server.guests import Guests

    return Guests(
        environment["LONGTASK_API_KEY"],
        is_own=is_of_stack,
        default_model=environment["LONGTASK_MODEL"],
    )


def _is_unused(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > UNUSED_DAYS * 86_400
