"""Widgets without a kernel: their messages are recorded where a kernel would send them."""

import json
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm


class RecordingComm(BaseComm):
    """Keeps what a kernel would put on the wire."""

    published: list[dict[str, Any]]

    def publish_msg(
        self,
        msg_type: str,
        data: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
        **keys: Any,  # noqa: ANN401 - the base class's signature
    ) -> None:
        if not hasattr(self, "published"):
            self.published = []
        self.published.append({"msg_type": msg_type, "data": data})

    def updates(self) -> list[dict[str, Any]]:
        """Return the custom updates, in order."""
        contents = [m["data"].get("content") for m in self.published if m.get("data")]
        return [c for c in contents if isinstance(c, dict) and c.get("t") == "u"]

    def count_bytes(self) -> int:
        """Return what the custom messages weigh as JSON, with a header's fixed cost each."""
        custom = [m for m in self.published if (m.get("data") or {}).get("method") == "custom"]
        return sum(650 + len(json.dumps(message["data"]).encode()) for message in custom)


@pytest.fixture(autouse=True)
def _record(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hook by which ipykernel itself puts its comms in.
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
