"""Versions meet: a kit finds a running stack that another version of the kit started."""

from __future__ import annotations

import json
import logging
import socket
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING

from longtask_kit.errors import LocalStackError
from longtask_kit.local.state import NO_PROXY, PROTOCOL, end_stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from longtask_kit.local.files import StackFiles
    from longtask_kit.local.state import StackState

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 5.0


def end_other_version(state: StackState, files: StackFiles) -> None:
    """End an idle stack of another version, and say so; one of ours then takes its data.

    A message that comes between the look and the end is delivered by the next stack, like all that
    are pending.

    Raises:
        LocalStackError: It may not be ended unasked: tasks are under way, or nobody knows; or its
            data are in a Redis that we don't know. Or it does not end.
    """
    objection = explain_objection(
        pending=count_pending(state.environment), is_embedded=_has_embedded_valkey(files)
    )
    if objection:
        raise LocalStackError(
            f"The local stack (process {state.pid}) speaks version {state.protocol!r} of the "
            f"protocol, this longtask_kit version {PROTOCOL}. {objection}"
        )
    end_stack(state.pid, files)
    # Logged, which is shown where nobody listens: whichever command or cell it was that joined.
    logger.warning(
        "longtask_kit: restarted the local stack, its data kept: process %d spoke version %r of "
        "the protocol, this longtask_kit speaks %d. If `longtask up` ran it in a terminal, that "
        "has ended, and its options with it.",
        state.pid,
        state.protocol,
        PROTOCOL,
    )


def explain_objection(*, pending: int | None, is_embedded: bool) -> str | None:
    """Return why a stack may not be restarted unasked, and the cure; None where it may.

    Args:
        pending: Messages that its queue has not done with, None where it doesn't tell.
        is_embedded: Its data are in the data folder, where the next stack finds them.
    """
    if not is_embedded:
        return (
            "Its data are in a Redis of its own, which a restart would leave: run `longtask down`, "
            "and start it again by `longtask up` with the same --redis-url."
        )
    later = "they are delivered again after the restart"
    if pending is None:
        return (
            "It does not tell whether tasks are under way: run `longtask down`, and then this "
            f"again; if there are any, {later}."
        )
    if pending:
        return (
            f"Messages under way in its queue: {pending}. Run `longtask down` when they are done, "
            f"and then this again; or now, and {later}."
        )
    return None


def count_pending(environment: Mapping[str, str]) -> int | None:
    """Ask the stack's Redis, which in any version answers and has the queue's messages there."""
    try:
        request = urllib.request.Request(  # noqa: S310 - written by a stack, 0600
            environment["UPSTASH_REDIS_REST_URL"],
            data=json.dumps(["ZCARD", "{qstash}:pending"]).encode(),
            headers={
                "Authorization": f"Bearer {environment['UPSTASH_REDIS_REST_TOKEN']}",
                "Content-Type": "application/json",
            },
        )
        with NO_PROXY.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
            return int(json.load(answer)["result"])
    except (OSError, HTTPException, ValueError, KeyError):
        return None


def _has_embedded_valkey(files: StackFiles) -> bool:
    """Tell whether the running stack has a Valkey of its own, by asking at its socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(files.socket))
        except OSError:
            return False
        return True
