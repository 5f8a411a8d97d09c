"""The store's atomic steps, as Lua that Valkey runs; each takes one JSON plan.

All keys begin with `qstash:`; the message keys are built inside the scripts, which is sound as
the local stack's Valkey is a single server.
"""

EVENTS_KEPT = 10_000
FINISHED_READABLE_MS = 60_000

_SHARED = f"""
local plan = cjson.decode(ARGV[1])
local function message_key(id) return 'qstash:message:' .. id end
local function record(event)
  redis.call('XADD', 'qstash:events', 'MAXLEN', '~', {EVENTS_KEPT}, '*',
    'id', event.id, 'state', event.state, 'view', event.view)
end
local function store(message)
  redis.call('HSET', message_key(message.id), 'record', message.record, 'retried', '0')
  redis.call('ZADD', 'qstash:pending', message.due_ms, message.id)
  record(message.created)
end
"""

# Answers the id of the message that now stands for the publish, or '' if the dead letter to
# be sent again is gone. Asking twice with one plan stores once: the client may repeat a
# script whose reply was lost.
PUBLISH = (
    _SHARED
    + """
if redis.call('EXISTS', message_key(plan.message.id)) == 1 then return plan.message.id end
if plan.dead_letter_id then
  if redis.call('HDEL', 'qstash:dead', plan.dead_letter_id) == 0 then return '' end
  redis.call('ZREM', 'qstash:dead_index', plan.dead_letter_id)
end
if plan.dedup_key then
  local key = 'qstash:dedup:' .. plan.dedup_key
  local first = redis.call('GET', key)
  if first then return first end
  redis.call('SET', key, plan.message.id, 'PX', plan.dedup_window_ms)
end
store(plan.message)
return plan.message.id
"""
)

# Ends an attempt: another due time, or the end with or without a dead letter. A message that
# is no longer pending was cancelled in the meantime, and its outcome counts for nothing.
SETTLE = (
    _SHARED
    + f"""
if not redis.call('ZSCORE', 'qstash:pending', plan.id) then return 0 end
for _, event in ipairs(plan.events) do record(event) end
if plan.due_ms then
  redis.call('HSET', message_key(plan.id), 'retried', plan.retried)
  redis.call('ZADD', 'qstash:pending', plan.due_ms, plan.id)
else
  redis.call('ZREM', 'qstash:pending', plan.id)
  redis.call('PEXPIRE', message_key(plan.id), {FINISHED_READABLE_MS})
end
if plan.dead_letter then
  redis.call('HSET', 'qstash:dead', plan.dead_letter.id, plan.dead_letter.record)
  redis.call('ZADD', 'qstash:dead_index', plan.dead_letter.time_ms, plan.dead_letter.id)
end
for _, message in ipairs(plan.messages) do store(message) end
return 1
"""
)

# Appends to the log only while the message is pending: nothing follows CANCELED.
RECORD = (
    _SHARED
    + """
if not redis.call('ZSCORE', 'qstash:pending', plan.event.id) then return 0 end
record(plan.event)
return 1
"""
)
