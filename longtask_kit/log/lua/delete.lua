-- Forget a task but for the number of its last attempt, which fences that one off a task of the same
-- id (create.lua).   KEYS[4] that number   KEYS[5] the new log of a compaction
-- Returns 'deleted' status, message id, name of its content, its place in a limit's line
-- | 'gone'.
local status, message_id, attempt, ttl, content, line =
  unpack(redis.call('HMGET', KEYS[1], 'status', 'message_id', 'attempt', 'ttl_s', 'content', 'line'))
if redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[5]) == 0 then return {'gone'} end
if attempt then redis.call('SET', KEYS[4], attempt, 'EX', ttl or ARGV[2]) end
return {'deleted', status, message_id, content, line}
