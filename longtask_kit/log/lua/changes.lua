-- Read a page of changes, and what they say in words that was not deleted.
-- KEYS as of tell.lua   ARGV[1] from this place on   ARGV[2] entries at most
-- Returns the page | task, words, …
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local words = {}
for _, entry in ipairs(page) do
  for task in string.gmatch(entry[1] ~= ARGV[1] and entry[2][4] or '', '%S+') do
    words[#words + 1] = task
    words[#words + 1] = redis.call('HGET', KEYS[2], task) or redis.call('HGET', KEYS[3], task) or ''
  end
end
return {page, words}
