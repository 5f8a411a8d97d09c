-- Record a new task as pending.
-- ARGV[3] its input's first part   ARGV[4] how many there are   ARGV[5] what a list shows, JSON
-- ARGV[6] name of its content, or ''   ARGV[7] time it may take, ms, or ''
-- KEYS[4] the last attempt of a task of this id that was deleted
-- Returns 'created', or 'exists' when it was recorded before (a reply was lost); and how many attempts
-- the tasks of this id had before it, as text.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'exists', redis.call('HGET', KEYS[1], 'former_attempts') or '0'}
end
-- An id that comes again, after its task was deleted or Redis evicted the record alone, goes on with
-- a higher attempt: else an old one that still runs would write into this log, and who has read the
-- old log would go on in this one.
local fence = redis.call('GET', KEYS[4]) or '-1'
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
local logged = last and string.match(last[1], '^%d+') or '-1'
local attempt = whole(math.max(tonumber(fence), tonumber(logged)) + 1)
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'status', 'pending', 'attempt', attempt, 'created_ms', now,
           'ttl_s', ARGV[2], 'parts', ARGV[4], 'brief', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'content', ARGV[6]) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'timeout_ms', ARGV[7], 'since_ms', now) end
redis.call('HSET', KEYS[3], '0', ARGV[3])
add({attempt .. '-1', 'k', 'status', 'd', 'pending'})
if attempt ~= '0' then redis.call('HSET', KEYS[1], 'former_attempts', attempt) end
keep()
return {'created', attempt}
