"""The store's atomic steps, as Lua that Valkey runs; each takes one JSON plan.

All keys begin with `{qstash}:`, whose braces put them into one slot of a Redis cluster: a script
may touch them all, though it names only `ROUTE`.
"""

from __future__ import annotations

import asyncio
import hashlib

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from longtask_kit.local.redis.engine import Engine
from longtask_kit.local.redis.resp import Failure, Reply

ROUTE = "{qstash}:pending"
EVENTS_KEPT = 10_000
FINISHED_READABLE_MS = 60_000
QUOTA_SPENT = "quota spent"
RECONNECT_WAITS_S = (0.01, 0.1, 0.5)

_SHARED = f"""
local plan = cjson.decode(ARGV[1])
local function message_key(id) return '{{qstash}}:message:' .. id end
local function states_key(schedule_id) return '{{qstash}}:schedule_states:' .. schedule_id end
local function record(event)
  redis.call('XADD', '{{qstash}}:events', 'MAXLEN', '~', {EVENTS_KEPT}, '*',
    'id', event.id, 'state', event.state, 'view', event.view)
end
local function store(message)
  redis.call('HSET', message_key(message.id), 'record', message.record, 'retried', '0')
  if message.ticket then redis.call('HSET', message_key(message.id), 'ticket', message.ticket) end
  redis.call('ZADD', '{{qstash}}:pending', message.due_ms, message.id)
  record(message.created)
  if message.active then record(message.active) end
end
"""

# Answers, for each message of the publish, the id that now stands for it; nothing if the dead
# letter to be sent again is gone. Asking twice with one plan stores once: the client may repeat
# a script whose reply was lost.
PUBLISH = (
    _SHARED
    + f"""
local used = plan.quota and tonumber(redis.call('GET', plan.quota.key) or '0')
if used and used + #plan.messages > plan.quota.most then return {{'{QUOTA_SPENT}'}} end
"""
    + """
if plan.dead_letter_id and redis.call('EXISTS', message_key(plan.messages[1].id)) == 0 then
  if redis.call('HDEL', '{qstash}:dead', plan.dead_letter_id) == 0 then return {} end
  redis.call('ZREM', '{qstash}:dead_index', plan.dead_letter_id)
end
for name, queue in pairs(plan.queues) do redis.call('HSETNX', '{qstash}:queues', name, queue) end
for key, flow in pairs(plan.flows) do redis.call('HSET', '{qstash}:flows', key, flow) end
local ids, stored = {}, 0
for i, message in ipairs(plan.messages) do
  ids[i] = message.id
  if redis.call('EXISTS', message_key(message.id)) == 0 then
    local key = message.dedup_key and '{qstash}:dedup:' .. message.dedup_key
    local first = key and redis.call('GET', key)
    if first then
      ids[i] = first
    else
      if key then redis.call('SET', key, message.id, 'PX', plan.dedup_window_ms) end
      store(message)
      stored = stored + 1
    end
  end
end
if used then redis.call('SET', plan.quota.key, used + stored, 'EX', 172800) end
return ids
"""
)

# Ends an attempt: another due time, or the end with or without a dead letter. A message that
# is no longer pending was cancelled in the meantime, and its outcome counts for nothing.
SETTLE = (
    _SHARED
    + f"""
if not redis.call('ZSCORE', '{{qstash}}:pending', plan.id) then return 0 end
for _, event in ipairs(plan.events) do record(event) end
if plan.due_ms then
  redis.call('HSET', message_key(plan.id), 'retried', plan.retried)
  redis.call('ZADD', '{{qstash}}:pending', plan.due_ms, plan.id)
else
  redis.call('ZREM', '{{qstash}}:pending', plan.id)
  redis.call('PEXPIRE', message_key(plan.id), {FINISHED_READABLE_MS})
  local states = plan.schedule_id and states_key(plan.schedule_id)
  -- Only the last run's messages are counted there.
  if states and redis.call('HEXISTS', states, plan.id) == 1 then
    redis.call('HSET', states, plan.id, plan.schedule_state)
  end
end
if plan.dead_letter then
  redis.call('HSET', '{{qstash}}:dead', plan.dead_letter.id, plan.dead_letter.record)
  redis.call('ZADD', '{{qstash}}:dead_index', plan.dead_letter.time_ms, plan.dead_letter.id)
end
for _, message in ipairs(plan.messages) do store(message) end
return 1
"""
)

# Appends to the log only while the message is pending: nothing follows CANCELED. What the start
# takes of a rate is kept with it, so that a crash doesn't begin a long period anew.
RECORD = (
    _SHARED
    + """
if not redis.call('ZSCORE', '{qstash}:pending', plan.event.id) then return 0 end
record(plan.event)
if plan.period then
  redis.call('HSET', '{qstash}:flow_periods', plan.period.key, plan.period.record)
end
return 1
"""
)

# Takes a schedule's turn and stores its messages in one step, so that a crash can neither lose
# nor double a run. A schedule that was changed since it was read waits for its new turn.
FIRE = (
    _SHARED
    + """
local due = redis.call('ZSCORE', '{qstash}:schedule_index', plan.id)
if not due or tonumber(due) ~= tonumber(plan.due_ms) then return 0 end
if redis.call('HGET', '{qstash}:schedules', plan.id) ~= plan.record then return 0 end
redis.call('ZADD', '{qstash}:schedule_index', plan.next_ms, plan.id)
redis.call('HSET', '{qstash}:schedule_last', plan.id, plan.time_ms)
redis.call('HDEL', '{qstash}:schedule_errors', plan.id)
if plan.error then redis.call('HSET', '{qstash}:schedule_errors', plan.id, plan.error) end
redis.call('DEL', states_key(plan.id))
for name, queue in pairs(plan.queues) do redis.call('HSETNX', '{qstash}:queues', name, queue) end
for key, flow in pairs(plan.flows) do redis.call('HSET', '{qstash}:flows', key, flow) end
for _, message in ipairs(plan.messages) do
  redis.call('HSET', states_key(plan.id), message.id, 'IN_PROGRESS')
  store(message)
end
return 1
"""
)


class ScriptRunner:
    """Runs the scripts on one connection: Valkey runs one at a time anyway.

    redis-py takes longer to send a script than Valkey to run it. Replies come in the order of
    the calls, which the delivery engine relies on.
    """

    def __init__(self, redis_url: str) -> None:
        self._engine = Engine(redis_url)

    def close(self) -> None:
        """Close the connection."""
        self._engine.close()

    async def run(self, script: str, plan: str) -> Reply:
        """Run a script with its plan; once more if the reply was lost, which each allows.

        Raises:
            RedisError: Valkey refuses, or does not answer.
        """
        for wait_s in RECONNECT_WAITS_S:
            try:
                return await self._run(script, plan)
            except (OSError, RedisConnectionError):
                await asyncio.sleep(wait_s)
        try:
            return await self._run(script, plan)
        except OSError as exc:
            raise RedisConnectionError(str(exc)) from exc

    async def _run(self, script: str, plan: str) -> Reply:
        arguments = [b"1", ROUTE.encode(), plan.encode()]
        [reply] = await self._engine.run([[b"EVALSHA", _DIGESTS[script], *arguments]])
        if isinstance(reply, Failure) and reply.startswith(b"NOSCRIPT"):
            [reply] = await self._engine.run([[b"EVAL", script.encode(), *arguments]])
        if isinstance(reply, Failure):
            raise ResponseError(reply.decode(errors="replace"))
        return reply


_DIGESTS = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
    for script in (PUBLISH, SETTLE, RECORD, FIRE)
}
