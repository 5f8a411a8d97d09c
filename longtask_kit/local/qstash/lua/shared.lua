-- Shared by the queue's scripts; prepended to each.
-- KEYS[1] routes to the queue's slot   ARGV[1] plan, JSON   ARGV[2] events that are kept, about
-- All keys begin with `{qstash}:`, whose braces put them into one slot of a Redis cluster: a script
-- may touch them all, though it names but one.
local plan = cjson.decode(ARGV[1])
local function message_key(id) return '{qstash}:message:' .. id end
local function states_key(schedule_id) return '{qstash}:schedule_states:' .. schedule_id end
local function record(event)
  redis.call('XADD', '{qstash}:events', 'MAXLEN', '~', ARGV[2], '*',
    'id', event.id, 'state', event.state, 'view', event.view)
end
local function store(message)
  redis.call('HSET', message_key(message.id), 'record', message.record, 'retried', '0')
  if message.ticket then redis.call('HSET', message_key(message.id), 'ticket', message.ticket) end
  redis.call('ZADD', '{qstash}:pending', message.due_ms, message.id)
  record(message.created)
  if message.active then record(message.active) end
end
