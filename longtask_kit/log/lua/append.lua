-- Store and announce what an attempt produced, renew its lease, learn of a cancel: one round trip.
-- ARGV[3] attempt   ARGV[4] lease, ms (0 gives it back)   ARGV[5] entries, JSON [[id, field, value, …], …]
-- ARGV[6] hash fields, JSON list
-- Returns 'ok' | 'cancel' (stored, and a cancel was asked for) | 'fenced' newer attempt | 'gone'
-- | 'torn' (Redis came back without what it had acknowledged: storing more would leave a hole).
local attempt, cancel, lease_until =
  unpack(redis.call('HMGET', KEYS[1], 'attempt', 'cancel', 'lease_until'))
if not attempt then return {'gone'} end
if attempt ~= ARGV[3] then return {'fenced', attempt} end
local entries = cjson.decode(ARGV[5])
-- A renewal that the attempt's end overtook: the lease was given back, and stays so.
if not entries[1] and lease_until == '0' then return {'ok'} end
if entries[1] then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')[1]
  local stored = last and string.match(last[1], '^' .. attempt .. '%-(%d+)$') or '0'
  local seq = string.match(entries[1][1], '%-(%d+)$')
  if tonumber(seq) > tonumber(stored) + 1 then return {'torn'} end
end
local is_new = true
for _, entry in ipairs(entries) do is_new = add(entry) end
-- Sent again after a lost reply: what has happened to the task since must stand.
if not is_new then return {'ok'} end
-- A lease that was renewed a moment ago, and the times to live with it, need no renewal.
local lease = tonumber(ARGV[4])
local age = tonumber(now) - (tonumber(lease_until or '0') - lease)
if lease == 0 or ARGV[6] ~= '[]' or age < 0 or age >= math.min(1000, lease / 10) then
  redis.call('HSET', KEYS[1], 'updated_ms', now,
             'lease_until', lease > 0 and whole(now + lease) or '0',
             unpack(cjson.decode(ARGV[6])))
  keep()
end
return {cancel and 'cancel' or 'ok'}
