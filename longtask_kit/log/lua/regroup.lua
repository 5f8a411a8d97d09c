-- Have a task that waits belong to the group that asks for it now.
-- ARGV[3] what it has on record of its group, JSON   ARGV[4] names of all there can be, JSON list
local brief = redis.call('HGET', KEYS[1], 'brief')
if not brief then return {'gone'} end
brief = cjson.decode(brief)
for _, name in ipairs(cjson.decode(ARGV[4])) do brief[name] = nil end
for name, value in pairs(cjson.decode(ARGV[3])) do brief[name] = value end
redis.call('HSET', KEYS[1], 'brief', cjson.encode(brief))
return {'done'}
