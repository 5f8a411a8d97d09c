-- Bring an ended task back out of an archive, as it was.
-- ARGV[3] its input's first part   ARGV[4] how many there are   ARGV[5] what a list shows, JSON
-- ARGV[6] name of its content      ARGV[7] hash fields, JSON list
-- ARGV[8] entries with their times, JSON [[id, field, value, …], …]
-- KEYS[4] the last attempt of a task of this id that was deleted
-- Returns 'restored', or 'exists': what is here stands.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'ttl_s', ARGV[2], 'parts', ARGV[4], 'brief', ARGV[5],
           'content', ARGV[6], unpack(cjson.decode(ARGV[7])))
-- As in create.lua: what may still run of the deleted one must not write into this log.
local fence = tonumber(redis.call('GET', KEYS[4]) or '-1')
if fence >= tonumber(redis.call('HGET', KEYS[1], 'attempt')) then
  redis.call('HSET', KEYS[1], 'attempt', whole(fence + 1))
end
redis.call('HSET', KEYS[3], '0', ARGV[3])
for _, entry in ipairs(cjson.decode(ARGV[8])) do redis.call('XADD', KEYS[2], unpack(entry)) end
keep()
return {'restored'}
