-- Note the queue's id of a task's message.   ARGV[3] the id; '': that of ARGV[4] is its last
-- ARGV[4] the message that this one goes on for, which has done its work; or ''
-- Returns 'noted' | 'gone': it was deleted meanwhile, and stays so.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
if ARGV[4] ~= '' then
  local last, before = unpack(redis.call('HMGET', KEYS[1], 'handed', 'handed_before'))
  if last and last ~= ARGV[4] then
    redis.call('HSET', KEYS[1], 'handed_before', string.sub(last .. ' ' .. (before or ''), 1, 1000))
  end
  redis.call('HSET', KEYS[1], 'handed', ARGV[4])
end
local known = redis.call('HGET', KEYS[1], 'message_id')
if ARGV[3] == '' then
  if known == ARGV[4] then redis.call('HDEL', KEYS[1], 'message_id') end
  return {'noted'}
end
-- Its delivery may have handed the task on before whoever published it came to note it.
local handed, before = unpack(redis.call('HMGET', KEYS[1], 'handed', 'handed_before'))
local was_handed = string.find(' ' .. (before or '') .. ' ', ' ' .. ARGV[3] .. ' ', 1, true)
if handed ~= ARGV[3] and not was_handed then
  redis.call('HSET', KEYS[1], 'message_id', ARGV[3])
end
return {'noted'}
