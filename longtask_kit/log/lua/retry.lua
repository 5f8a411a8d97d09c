-- Have a failed task wait for another delivery.
-- Returns 'waiting' cursor | 'refused' status | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
if status ~= 'failed' then return {'refused', status} end
-- A late word about the message that failed must not end the new run.
local former = redis.call('HGET', KEYS[1], 'delivery') or redis.call('HGET', KEYS[1], 'message_id')
redis.call('HSET', KEYS[1], 'status', 'pending', 'updated_ms', now, 'former', former or '')
redis.call('HDEL', KEYS[1], 'error', 'code', 'cancel', 'delivery', 'message_id')
-- Written before anything is published: whoever reads from now on waits for the next attempt instead
-- of finding the old end, and a cancel finds a task that waits.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local attempt, seq = string.match(last and last[1] or '0-0', '(%d+)-(%d+)')
local cursor = attempt .. '-' .. string.format('%.0f', tonumber(seq) + 1)
add({cursor, 'k', 'status', 'd', 'pending'})
keep()
return {'waiting', cursor}
