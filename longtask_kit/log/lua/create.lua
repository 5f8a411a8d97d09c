-- Record a new task as pending.   ARGV[3] hash fields, JSON list
-- Returns 'created', or 'exists' when it was recorded before (a reply was lost).
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
redis.call('HSET', KEYS[1], 'status', 'pending', 'attempt', '0', 'created_ms', now,
           unpack(cjson.decode(ARGV[3])))
add({'0-1', 'k', 'status', 'd', 'pending'})
keep()
return {'created'}
