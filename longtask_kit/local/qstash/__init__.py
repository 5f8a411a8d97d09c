"""A local queue that speaks QStash's wire protocol, with its messages in Valkey.

Made from the protocol's public description (wire doc, tier T1), so that the official SDKs work
against it unmodified. It is for one person's machine: one process, destinations on loopback.
"""

from __future__ import annotations

from longtask_kit.local.qstash.app import create_qstash_app

__all__ = ["create_qstash_app"]
