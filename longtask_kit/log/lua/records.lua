-- Read fields of many hashes in one command.   KEYS the hashes   ARGV the fields
local found = {}
for at, key in ipairs(KEYS) do found[at] = redis.call('HMGET', key, unpack(ARGV)) end
return found
