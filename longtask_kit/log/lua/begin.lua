-- Lease the next attempt to a delivery.   ARGV[3] lease, ms   ARGV[4] message id of the delivery
-- Returns 'begun' attempt spec | 'busy' lease left, ms | 'done' status | 'cancel' (asked for, and
-- the attempt that should have heeded it is gone) | 'gone'.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'gone'} end
-- A failed task runs again only for another message (somebody retried its dead letter by hand), or
-- when it was given up as lost and now its message comes after all. Whose publish failed was told
-- that nothing will run, so a message that got through all the same does not count.
local code = redis.call('HGET', KEYS[1], 'code')
local is_other = redis.call('HGET', KEYS[1], 'delivery') ~= ARGV[4]
local runs_again = status == 'failed' and (code == 'lost' or is_other and code ~= 'not_queued')
if is_terminal(status) and not runs_again then return {'done', status} end
local left = lease_left()
if left > 0 then return {'busy', left} end
if runs_again then redis.call('HDEL', KEYS[1], 'cancel') end
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then return {'cancel'} end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'status', 'running', 'delivery', ARGV[4], 'updated_ms', now,
           'lease_until', string.format('%.0f', tonumber(now) + tonumber(ARGV[3])))
redis.call('HDEL', KEYS[1], 'error', 'code')
add({attempt .. '-1', 'k', 'status', 'd', 'running'})
add({attempt .. '-2', 'k', 'start', 'd', tostring(attempt)})
keep()
return {'begun', attempt, redis.call('HGET', KEYS[1], 'spec')}
