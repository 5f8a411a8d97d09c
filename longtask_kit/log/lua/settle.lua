-- End a task that no attempt is running: cancelled by somebody, or failed for good.
-- ARGV[3] status   ARGV[4] last entry's fields, JSON list   ARGV[5] hash fields, JSON list
-- ARGV[6] '1': when an attempt is running, ask it to stop
-- ARGV[7] message id this is about, or '': a late word about an old message ends no newer run
-- ARGV[8] only when nothing has happened for so long, ms; 0: whatever has
-- ARGV[9] 'late': only when its time is over; 'ask', about silence: ask the queue first whether it
-- has the message; 'kept': it has, so silence counts from now on
-- Returns 'settled' the end's attempt, message id, its place in a limit's line | 'done' status
-- | 'busy' lease left, ms | 'ask' message id | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
if is_terminal(status) then return {'done', status} end
local is_delivered = redis.call('HEXISTS', KEYS[1], 'delivery') == 1
local is_old = is_delivered and last_message() ~= ARGV[7]
               or redis.call('HGET', KEYS[1], 'former') == ARGV[7]
if ARGV[7] ~= '' and is_old then return {'done', status} end

-- Returns how long nothing has happened as far as anybody looked, ms: what lies between two looks
-- counts as `most` at most. So nobody is lost at the first look after a clock jumped or a machine
-- slept, while its message was queued all the time; and where the clock goes back, no time counts.
local function watch_silence(most, from_now)
  local since = redis.call('HGET', KEYS[1], 'updated_ms') or redis.call('HGET', KEYS[1], 'created_ms')
  local last = redis.call('HGET', KEYS[1], 'looked') or ''
  local of, at, silent = string.match(last, '^(%d+) (%d+) (%d+)$')
  if of ~= since then at, silent = since, 0 end
  silent = silent + math.max(0, math.min(now - at, most))
  if from_now then silent = 0 end
  redis.call('HSET', KEYS[1], 'looked', since .. ' ' .. now .. ' ' .. whole(silent))
  return silent
end

local left, deadline = lease_left(), tonumber(ARGV[8])
if left == 0 and ARGV[9] == 'late' then left = math.max(0, time_left() or 1) end
if left == 0 and deadline > 0 then
  left = math.max(0, deadline - watch_silence(deadline / 2, ARGV[9] == 'kept'))
  local message = redis.call('HGET', KEYS[1], 'message_id')
  if left == 0 and ARGV[9] == 'ask' and message then return {'ask', message} end
end
-- Between two attempts it may run at its model's service, which only a delivery can have end it.
local place = redis.call('HGET', KEYS[1], 'place') or ''
if left == 0 and ARGV[6] == '1' and place ~= '' then
  local run = cjson.decode(place).value
  left = type(run) == 'table' and run.id and 1 or 0
end
if left > 0 then
  if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'cancel', '1') end
  return {'busy', left}
end
-- The end takes an attempt number of its own, which fences a straggler of the last one.
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'updated_ms', now, unpack(cjson.decode(ARGV[5])))
add({attempt .. '-1', 'k', 'status', 'd', ARGV[3]})
add({attempt .. '-2', unpack(cjson.decode(ARGV[4]))})
keep()
return {'settled', attempt, unpack(redis.call('HMGET', KEYS[1], 'message_id', 'line'))}
