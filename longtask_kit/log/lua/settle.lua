-- End a task that no attempt is running: cancelled by somebody, or failed for good.
-- ARGV[3] status   ARGV[4] last entry's fields, JSON list   ARGV[5] hash fields, JSON list
-- ARGV[6] '1': when an attempt is running, ask it to stop
-- ARGV[7] message id this is about, or '': a late word about an old message ends no newer run
-- ARGV[8] only when nothing has happened for so long, ms
-- Returns 'settled' message id | 'done' status | 'busy' lease left, ms | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
if is_terminal(status) then return {'done', status} end
local delivery = redis.call('HGET', KEYS[1], 'delivery')
local is_old = delivery and delivery ~= ARGV[7] or redis.call('HGET', KEYS[1], 'former') == ARGV[7]
if ARGV[7] ~= '' and is_old then return {'done', status} end
local updated = redis.call('HGET', KEYS[1], 'updated_ms') or redis.call('HGET', KEYS[1], 'created_ms')
local left = math.max(lease_left(), tonumber(updated) + tonumber(ARGV[8]) - tonumber(now))
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
return {'settled', redis.call('HGET', KEYS[1], 'message_id')}
