-- Shared by the task scripts; prepended to each.
-- KEYS[1] task hash   KEYS[2] log   ARGV[1] channel   ARGV[2] time to live of both keys, s
-- One clock for leases and timestamps: the server's.
local clock = redis.call('TIME')
local now = clock[1] .. string.sub('000000' .. clock[2], -6, -4)

-- Truth before news: a reader that hears the news must find the entry in the log.
-- An id that is not larger than the last was appended before (a reply was lost): nothing to say.
-- Returns whether it is new.
local function add(entry)
  entry[#entry + 1] = 't'
  entry[#entry + 1] = now
  local added = redis.pcall('XADD', KEYS[2], unpack(entry))
  if type(added) == 'table' and added.err then
    if string.find(added.err, 'equal or smaller', 1, true) then return false end
    error(added.err)
  end
  redis.call('PUBLISH', ARGV[1], cjson.encode(entry))
  return true
end

local function keep()
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end

local function lease_left()
  local left = tonumber(redis.call('HGET', KEYS[1], 'lease_until') or '0') - tonumber(now)
  return left > 0 and left or 0
end

local function is_terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end
