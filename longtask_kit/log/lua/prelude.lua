-- Shared by the task scripts; prepended to each.
-- KEYS[1] task hash   KEYS[2] log   KEYS[3] input   ARGV[1] channel
-- ARGV[2] their time to live, s, of a new task: it keeps that of whoever submitted it
-- One clock for leases and timestamps: the server's. It may jump too, after a sleep or a failover, so
-- no time in a record is believed further than it can be meant.
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
  local ttl = redis.call('HGET', KEYS[1], 'ttl_s') or ARGV[2]
  redis.call('EXPIRE', KEYS[1], ttl)
  redis.call('EXPIRE', KEYS[2], ttl)
  redis.call('EXPIRE', KEYS[3], ttl)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- A lease with more left than its length was given before the clock went back: it begins anew.
local function lease_left()
  local ends, length = unpack(redis.call('HMGET', KEYS[1], 'lease_until', 'lease_ms'))
  local left, most = tonumber(ends or '0') - tonumber(now), tonumber(length or '3600000')
  if left > most then
    left = most
    redis.call('HSET', KEYS[1], 'lease_until', whole(now + most))
  end
  return left > 0 and left or 0
end

-- What is left of the time that a task may take, ms, since it was submitted or retried; nil: no limit.
local function time_left()
  local given, since = unpack(redis.call('HMGET', KEYS[1], 'timeout_ms', 'since_ms'))
  return given and math.min(tonumber(given), since + given - now)
end

local function is_terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end

-- The message that a task runs by or waits for; of one that was handed on, the next; nil: not known.
local function last_message()
  local delivery, message, handed =
    unpack(redis.call('HMGET', KEYS[1], 'delivery', 'message_id', 'handed'))
  if delivery and delivery ~= handed then return delivery end
  return message or delivery or nil
end
