-- Have a failed, cancelled or parked task wait for another delivery.   ARGV[3] id of this request
-- Returns 'waiting' cursor, the attempt that it waits for (not when asked again) | 'refused' status
-- | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
-- Asked again as its answer was lost: whatever has come of it since, it is the same retry; but if
-- that was given up, as the queue did not take it, its message is no good any more.
local retried, at = string.match(redis.call('HGET', KEYS[1], 'retried') or '', '(%S+) (%S+)')
local is_given_up = status == 'failed' and redis.call('HGET', KEYS[1], 'code') == 'not_queued'
if retried == ARGV[3] and not is_given_up then return {'waiting', at} end
local is_parked = status == 'pending' and redis.call('HGET', KEYS[1], 'code') == 'budget'
if status ~= 'failed' and status ~= 'cancelled' and not is_parked then return {'refused', status} end
-- A late word about the message that failed must not end the new run.
local former = last_message()
redis.call('HSET', KEYS[1], 'status', 'pending', 'updated_ms', now, 'former', former or '',
           'since_ms', now)
redis.call('HDEL', KEYS[1], 'error', 'code', 'cancel', 'delivery', 'message_id')
if not is_parked then redis.call('HDEL', KEYS[1], 'continues', 'keeps', 'place') end
-- Written before anything is published: whoever reads from now on waits for the next attempt instead
-- of finding the old end, and a cancel finds a task that waits.
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local attempt, seq = string.match(last and last[1] or '0-0', '(%d+)-(%d+)')
local cursor = attempt .. '-' .. whole(seq + 1)
redis.call('HSET', KEYS[1], 'retried', ARGV[3] .. ' ' .. cursor)
add({cursor, 'k', 'status', 'd', 'pending'})
keep()
local goes_on = redis.call('HGET', KEYS[1], 'continues') == '1'
return {'waiting', cursor, redis.call('HGET', KEYS[1], 'attempt') + (goes_on and 0 or 1)}
