-- Lease the next attempt to a delivery.   ARGV[3] lease, ms   ARGV[4] message id of the delivery
-- ARGV[5] how long ago it arrived, ms, or ''
-- Returns 'begun' attempt, the first part of its input, how many there are, 'again' (it had ended;
-- else ''), what is left of its time, ms, or '', its first entry's number, what a list shows, how it
-- may go on behind the text that stands, or '', its place, and since when it runs, ms, or '' | 'busy' lease left, ms
-- | 'done' status | 'cancel' place (asked for, and the attempt that should have heeded it is gone)
-- | 'late' (its time is over) | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
-- A failed task runs again only for another message (somebody retried its dead letter by hand), or
-- when it was given up as lost and now its message comes after all. Whose publish failed was told
-- that nothing will run, so a message that got through all the same does not count.
local code = redis.call('HGET', KEYS[1], 'code')
local is_other = last_message() ~= ARGV[4]
local runs_again = status == 'failed' and (code == 'lost' or is_other and code ~= 'not_queued')
if is_terminal(status) and not runs_again then return {'done', status} end
-- This message has handed the task on, and came once more since its answer was lost.
local handed, before = unpack(redis.call('HMGET', KEYS[1], 'handed', 'handed_before'))
local was_handed = string.find(' ' .. (before or '') .. ' ', ' ' .. ARGV[4] .. ' ', 1, true)
if handed == ARGV[4] or was_handed then return {'done', status} end
local left = lease_left()
if left > 0 then return {'busy', left} end
if runs_again then
  redis.call('HDEL', KEYS[1], 'cancel')
  redis.call('HSET', KEYS[1], 'since_ms', now)
  if code ~= 'lost' then redis.call('HDEL', KEYS[1], 'keeps', 'place') end
end
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
  return {'cancel', redis.call('HGET', KEYS[1], 'place') or ''}
end
local time = time_left()
if time and time <= 0 then return {'late'} end
local attempt, seq = redis.call('HGET', KEYS[1], 'attempt'), 0
-- One that was handed on in good order goes on: its last entry is its own, and it has no straggler.
if redis.call('HGET', KEYS[1], 'continues') == '1' then
  local entry = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
  seq = tonumber(entry and string.match(entry[1], '^' .. attempt .. '%-(%d+)$') or '0')
end
if seq == 0 then attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1) end
redis.call('HSET', KEYS[1], 'status', 'running', 'delivery', ARGV[4], 'updated_ms', now,
           'lease_ms', ARGV[3], 'lease_until', whole(now + ARGV[3]))
redis.call('HDEL', KEYS[1], 'error', 'code', 'continues')
local arrived = ARGV[5] ~= '' and {'r', whole(now - ARGV[5])} or {}
add({attempt .. '-' .. whole(seq + 1), 'k', 'status', 'd', 'running', unpack(arrived)})
-- Where it may go on, whoever runs it says what it does.
local keeps = redis.call('HGET', KEYS[1], 'keeps') or ''
local starts = seq == 0 and keeps == ''
if starts then add({attempt .. '-2', 'k', 'start', 'd', tostring(attempt)}) end
keep()
local facts = {runs_again and 'again' or '', time or '', whole(starts and 3 or seq + 2),
               redis.call('HGET', KEYS[1], 'brief') or '{}', keeps,
               redis.call('HGET', KEYS[1], 'place') or '',
               redis.call('HGET', KEYS[1], 'since_ms') or ''}
-- A record of a version before holds its input itself.
local input, parts = redis.call('HGET', KEYS[1], 'spec'), '1'
if not input then
  input, parts = redis.call('HGET', KEYS[3], '0') or '', redis.call('HGET', KEYS[1], 'parts')
end
return {'begun', tonumber(attempt), input, parts, unpack(facts)}
