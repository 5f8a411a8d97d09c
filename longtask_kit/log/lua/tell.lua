-- Tell of changes. What they say in words is kept apart, where a delete finds it.
-- KEYS[1] the stream   KEYS[2] words by task   KEYS[3] those of before, when there were many
-- ARGV[1] the changes, JSON   ARGV[2] entries of the stream that are kept   ARGV[3] words that are
-- ARGV[4] times to live, s   then task, words, …: '' of a deleted task, which stays without
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then redis.call('RENAME', KEYS[2], KEYS[3]) end
local spoken = {}
for i = 5, #ARGV, 2 do
  local task, words = ARGV[i], ARGV[i + 1]
  local is_new = redis.call('HGET', KEYS[2], task) ~= '' and redis.call('HGET', KEYS[3], task) ~= ''
  -- News of a task may come after its delete.
  if words == '' or is_new then
    redis.call('HSET', KEYS[2], task, words)
    redis.call('HDEL', KEYS[3], task)
  end
  spoken[#spoken + 1] = task
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'c', ARGV[1],
           'w', table.concat(spoken, ' '))
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return {}
