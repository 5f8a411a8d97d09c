"""Has calls of models wait for their turn: requests and tokens a minute, and a group's budget.

A short wait holds the delivery, whose lease the writer renews; a long one hands the task on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import LongTaskError, RetryableError, StoreError
from longtask_kit.log.limits import Call, Rates, Reserved, name_bucket
from longtask_kit.server.budget import Budgeted, estimate_lost
from longtask_kit.server.continuation import OWN
from longtask_kit.server.ending import Ending, MustWait
from longtask_kit.server.handlers import Keep, Outcome, TakeUp
from longtask_kit.server.openai_background import RESPONSE
from longtask_kit.server.openai_continue import is_continuable
from longtask_kit.submit.estimate import bound_answer, estimate_prompt, estimate_tokens
from longtask_kit.submit.fates import LEAST_TTL_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from longtask_kit.log.budgets import BudgetStore
    from longtask_kit.log.groups import GroupStore
    from longtask_kit.log.limits import LimitStore
    from longtask_kit.server.attempt_writer import AttemptWriter
    from longtask_kit.server.continuation import Past, Standing
    from longtask_kit.server.handlers import Handler, Said, TaskContext
    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec

logger = logging.getLogger(__name__)

_TOLD_S = 1.0  # a shorter one is nobody's news
_REFUSED_S = 2.0  # where the service does not say when it takes calls again
_LONGEST_S = 3600.0  # then a task asks again: much may have changed
_KNOWN_S = 120.0
_FREE_S = 5.0  # how long somebody else's new limit is not heard of
_STALE_S = 60.0  # with so old a word a call goes, and another look is taken meanwhile
_HELD_AT_MOST = 1 / 3  # of an attempt's time, where that is limited: the rest is for its call
_CLOSE_S = 2.0
_KEPT_AT_MOST = 1000
_COUNT = re.compile(r"[0-9]{1,15}")  # `²` is a digit, too
_LONGEST_TOLD_S = 86_400.0
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


@dataclass(frozen=True, slots=True)
class Estimate:
    """About what a call takes.

    Attributes:
        prompt: Tokens of its prompt, 0 where none is sent.
        answer: The most of its answer.
        before: Of prompt and answer, what earlier attempts have told of the same run.
        reads_on: It runs already, and calls nobody.
    """

    prompt: int
    answer: int
    before: tuple[int, int] = (0, 0)
    reads_on: bool = False


def estimate_call(spec: TaskSpec, standing: Standing | None) -> Estimate:
    """Return about what a call takes; one that continues sends what stands, too."""
    prompt = estimate_prompt(spec)
    if standing is None:
        return Estimate(prompt, bound_answer(spec))
    left, stands = bound_answer(spec, begun=standing.tokens), estimate_tokens(len(standing.text))
    if standing.way == RESPONSE and standing.place:
        return Estimate(0, left, before=(prompt, stands) if stands else (0, 0), reads_on=True)
    if standing.way == OWN or (standing.way and standing.is_plain and is_continuable(spec)):
        return Estimate(prompt + stands, left)
    return Estimate(prompt, bound_answer(spec))


@dataclass(slots=True)
class _Turn:
    """A call under way, and what its service said of its limits."""

    call: Call
    reserved: Reserved
    rates: Rates


class Limiter:
    """The limits of an app: asked before each call, told after it.

    Args:
        limits: The buckets.
        budgets: Of groups.
        groups: Which live on while they run.
        settings: The app's own limits, and its model service.
    """

    def __init__(
        self, limits: LimitStore, budgets: BudgetStore, groups: GroupStore, settings: Settings
    ) -> None:
        self._limits = limits
        self._budgets = budgets
        self._groups = groups
        self._kept: dict[str, float] = {}  # groups, and when they are to live on again
        self._settings = settings
        limits.minute_s = settings.limit_minute_s
        self._turns: dict[tuple[str, int], _Turn] = {}
        self._limited: dict[str, float] = {}  # buckets that somebody keeps a limit of, until when
        self._free: dict[str, float] = {}  # those that nobody does, as of when
        self._looks: dict[str, asyncio.Task[bool]] = {}
        self._telling: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        """Wait for a moment until all is told."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=_CLOSE_S)

    def limit(
        self,
        handler: Handler,
        spec: TaskSpec,
        brief: Mapping[str, Any],
        writer: AttemptWriter,
        past: Past,
    ) -> Handler:
        """Return a handler that waits for its turn; the same where there is no limit."""
        replays = getattr(handler, "replays", None)
        estimate = estimate_call(spec, past.standing)
        is_replay = replays is not None and replays(spec)
        is_free = estimate.reads_on or is_replay  # nobody is called
        call = None if is_free else self._make_call(spec, brief, writer.task_id, estimate)
        hold_s = _HELD_AT_MOST * (self._settings.max_duration_s or math.inf)
        if call is not None:
            until = asyncio.get_running_loop().time() + hold_s
            handler = _Limited(self, handler, call, writer, until)
        if group_id := brief.get("groupId", ""):
            self._keep(group_id)
        if brief.get("budget") and not is_replay:  # which nobody pays for
            handler = Budgeted(
                handler,
                self._budgets,
                group_id=group_id,
                estimate=estimate,
                lost=estimate_lost(estimate, past.attempts, before=writer.attempt),
                hold_s=min(self._settings.limit_hold_s, hold_s),
                soon=self._soon,
                keep=self._keep,
            )
        return handler

    def _keep(self, group_id: str) -> None:
        """Have a group live on; now and then, since the next map may let it live more briefly."""
        now = asyncio.get_running_loop().time()
        if self._kept.get(group_id, 0.0) < now:
            if len(self._kept) > _KEPT_AT_MOST:
                self._kept.clear()
            self._kept[group_id] = now + LEAST_TTL_S / 4
            self._soon(self._groups.prolong(group_id))

    def _make_call(
        self, spec: TaskSpec, brief: Mapping[str, Any], task_id: str, estimate: Estimate
    ) -> Call | None:
        is_model = spec.handler == "openai"
        service = spec.endpoint or self._settings.openai_base_url or ""
        endpoint = service if is_model else f"handler {spec.handler}"
        bucket = name_bucket(endpoint, spec.model or self._settings.model)
        own = (self._settings.rpm, self._settings.tpm) if is_model else (0, 0)
        rpm = find_smallest(own[0], brief.get("rpm"))
        tpm = find_smallest(own[1], brief.get("tpm"))
        now = asyncio.get_running_loop().time()
        if rpm or tpm:
            self._limited[bucket] = now + _KNOWN_S
        elif now < self._free.get(bucket, -math.inf) + _FREE_S:
            return None
        return Call(
            bucket=bucket,
            group=brief.get("groupId", ""),
            task_id=task_id,
            rpm=rpm,
            tpm=tpm,
            prompt_tokens=estimate.prompt,
            answer_tokens=estimate.answer,
        )

    async def is_free(self, call: Call) -> bool:
        """Tell whether nobody keeps a limit of what is called: another app may, or a kernel."""
        now = asyncio.get_running_loop().time()
        if call.rpm or call.tpm or self._limited.get(call.bucket, 0.0) > now:
            return False
        age_s = now - self._free.get(call.bucket, -math.inf)
        if age_s < _FREE_S:
            return True
        look = self._looks.get(call.bucket)
        if look is None:  # one for all who call at once
            look = self._looks[call.bucket] = self._run(self._look(call.bucket))
        return age_s < _STALE_S or await asyncio.shield(look)

    async def _look(self, bucket: str) -> bool:
        try:
            is_kept = await self._limits.is_kept(bucket)
        except LongTaskError as exc:
            logger.info("nobody could say whether there is a limit: %s", exc)
            is_kept = False
        finally:
            del self._looks[bucket]
        now = asyncio.get_running_loop().time()
        if is_kept:
            self._free.pop(bucket, None)
            self._limited[bucket] = now + _KNOWN_S
        else:
            self._free[bucket] = now
        return not is_kept

    async def wait_for_turn(
        self, call: Call, writer: AttemptWriter, attempt: int, until: float = math.inf
    ) -> None:
        """Return when the call may be made.

        Args:
            call: It.
            writer: Its attempt's.
            attempt: The attempt's number.
            until: How long it may be held at most, by the loop's clock.

        Raises:
            MustWait: That takes longer than a delivery is held.
            RetryableError: Redis did not answer.
        """
        loop = asyncio.get_running_loop()
        give_up_at = min(loop.time() + self._settings.limit_hold_s, until)
        is_told = False
        try:
            while not isinstance(answer := await self._ask(call), Reserved):
                if loop.time() + answer > give_up_at:
                    raise MustWait(wait_ending(min(answer, _LONGEST_S), call.line))
                if answer >= _TOLD_S:
                    writer.note("pending", describe_wait(answer), code="limit")
                    is_told = True
                writer.waits = True
                await asyncio.sleep(answer)
        except asyncio.CancelledError:
            self._soon(self._limits.leave(call))
            raise
        finally:
            writer.waits = False
        self._turns[call.task_id, attempt] = _Turn(call, answer, Rates())
        if is_told:
            writer.note("running")

    async def _ask(self, call: Call) -> Reserved | float:
        try:
            return await self._limits.ask(call)
        except StoreError as exc:
            raise RetryableError(f"The limit could not be asked: {exc}", code="store") from exc

    def heed(self, context: TaskContext, status: int, headers: Mapping[str, str]) -> None:
        """Take in what a model service said of its limits, with its answer or its refusal."""
        turn = self._turns.get((context.task_id, context.attempt))
        if turn is not None:
            turn.rates = read_rates(status, headers)

    def is_refused(self, context: TaskContext, exc: RetryableError) -> bool:
        """Tell whether a call failed since its service takes no more of them for now."""
        turn = self._turns[context.task_id, context.attempt]
        if not turn.rates.is_refused:
            if exc.code not in ("rate_limit_exceeded", "http_429"):
                return False
            turn.rates = Rates(is_refused=True, hold_s=exc.retry_after_s or _REFUSED_S)
        return True

    def settle(self, context: TaskContext, outcome: Outcome | None) -> asyncio.Task[None]:
        """Tell what a call took; nobody need wait for that."""
        turn = self._turns.pop((context.task_id, context.attempt))
        usage = outcome.usage if outcome else None
        counted = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        return self._soon(
            self._limits.settle(turn.call, turn.reserved, counted=counted, rates=turn.rates)
        )

    def _soon(self, telling: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        async def tell() -> None:
            try:
                await telling
            except LongTaskError as exc:
                logger.info("a limit was not told what was used: %s", exc)

        return self._run(tell())

    def _run(self, doing: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(doing)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task


class _Limited:
    """A handler that is called when it is its task's turn."""

    def __init__(
        self, limiter: Limiter, handler: Handler, call: Call, writer: AttemptWriter, until: float
    ) -> None:
        self._limiter, self._handler, self._call, self._writer = limiter, handler, call, writer
        self._until = until

    async def __call__(self, context: TaskContext) -> AsyncIterator[Said]:
        """Yield what the handler does; a call that the service refuses waits for another turn."""
        if await self._limiter.is_free(self._call):
            free: Any = self._handler(context)
            async with contextlib.aclosing(free):
                async for item in free:
                    yield item
            return
        is_refused, attempt = True, context.attempt
        while is_refused:
            await self._limiter.wait_for_turn(self._call, self._writer, attempt, self._until)
            outcome: Outcome | None = None
            is_refused = has_spoken = False
            try:
                said: Any = self._handler(context)
                async with contextlib.aclosing(said):
                    async for item in said:
                        has_spoken = has_spoken or not isinstance(item, Keep | TakeUp)
                        if isinstance(item, Outcome):
                            outcome = item
                        yield item
            except RetryableError as exc:
                is_refused = not has_spoken and self._limiter.is_refused(context, exc)
                if not is_refused:
                    raise
            finally:
                settled = self._limiter.settle(context, outcome)
            if is_refused:
                await settled  # or the next question would get the same answer


def wait_ending(wait_s: float, line: str) -> Ending:
    """Return how an attempt ends that has to wait for long."""
    return Ending(
        kind="wait",
        message=describe_wait(wait_s),
        code="limit",
        retry_after_s=max(1.0, wait_s),
        line=line,
    )


def describe_wait(wait_s: float) -> str:
    """Say that a task waits for a limit, and for how long."""
    return f"waits for the limit, next in {max(1, math.ceil(wait_s)):,} s"


def find_smallest(*limits: int | None) -> int:
    """Return the smallest of the limits that are set; 0 for none."""
    return min((limit for limit in limits if limit), default=0)


def read_rates(status: int, headers: Mapping[str, str]) -> Rates:
    """Read what a model service says of its limits, by the headers that most of them have.

    platform.openai.com/docs/guides/rate-limits: `x-ratelimit-limit-requests`, `-remaining-…`,
    `-reset-…`, and the same of tokens; a reset is a time like `6m0s`.
    """
    hold_s = 0.0
    limits = {"requests": 0, "tokens": 0}
    for what in limits:
        limit, left, reset = (
            headers.get(f"x-ratelimit-{kind}-{what}") for kind in ("limit", "remaining", "reset")
        )
        reset_s = read_duration(reset)
        if limit and _COUNT.fullmatch(limit) and reset_s is not None and reset_s <= 60.0:
            limits[what] = int(limit)  # a minute's; some name a day's there
        if left == "0" and reset_s is not None:
            hold_s = max(hold_s, reset_s)
    is_refused = status == 429
    if is_refused:
        hold_s = read_duration(headers.get("retry-after")) or hold_s or _REFUSED_S
    return Rates(is_refused=is_refused, hold_s=hold_s, rpm=limits["requests"], tpm=limits["tokens"])


def read_duration(text: str | None) -> float | None:
    """Return the seconds of `1.5`, `1s`, `6m0s` or `20ms`; None for what is none, or over a day."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return seconds if 0 <= seconds <= _LONGEST_TOLD_S else None
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds_, ms = (float(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds_ + ms / 1000
    return total if total <= _LONGEST_TOLD_S else None
