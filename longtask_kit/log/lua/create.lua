-- Record a new task as pending.   ARGV[3] what runs, JSON   ARGV[4] what a list shows of it, JSON
-- Returns 'created', or 'exists' when it was recorded before (a reply was lost).
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
redis.call('HSET', KEYS[1], 'status', 'pending', 'attempt', '0', 'created_ms', now,
           'spec', ARGV[3], 'brief', ARGV[4])
add({'0-1', 'k', 'status', 'd', 'pending'})
keep()
return {'created'}
