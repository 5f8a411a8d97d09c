-- Store an ended task's text in fewer entries, where one of a single token takes five times its text.
-- Successive `content` entries become one, with the id and time of the last; its field `p` says how
-- to take it apart again (events.py). Readers get the same events, so nothing is published.
-- A step at a time, as a long log would hold up everybody's Redis for a second: each moves some
-- entries to a new log, which takes the place of the old one when it is whole.
-- KEYS[3] the new log
-- Returns 1 to be called again | 0 done, or nothing to gain.
local step = 500  -- entries: a few ms
local most_bytes = 1024  -- an entry, about: readers ask for a thousand at once, which stays near 1 MB
local least_saved = 64  -- entries: a log of fewer fits into the 4 KiB that a stream takes at least

local new = KEYS[3]
if not is_terminal(redis.call('HGET', KEYS[1], 'status')) then  -- gone, or retried in the meantime
  redis.call('DEL', new)
  return {0}
end
if redis.call('XLEN', KEYS[2]) <= least_saved then return {0} end
local done = redis.call('XREVRANGE', new, '+', '-', 'COUNT', '1')[1]
local page = redis.call('XRANGE', KEYS[2], done and '(' .. done[1] or '-', '+', 'COUNT', step)

-- Returns a piece of text as it was written, or nil for any other entry, also one merged before.
local function read_piece(id, fields)
  local attempt, seq = string.match(id, '(%d+)-(%d+)')
  local names = (fields[1] or '') .. (fields[3] or '') .. (fields[5] or '')
  if not (names == 'dt' and #fields == 4 or names == 'dnt' and #fields == 6) then return nil end
  return {id = id, attempt = attempt, seq = tonumber(seq), text = fields[2],
          time = fields[#fields], tokens = names == 'dnt' and ' ' .. fields[4] or ''}
end

local groups = {}  -- of what becomes one entry
for _, item in ipairs(page) do
  local piece, group = read_piece(item[1], item[2]), groups[#groups]
  local last = piece and group and group.last
  local follows = last and piece.attempt == last.attempt and piece.seq == last.seq + 1
                  and group.bytes + #piece.text <= most_bytes
  if not follows then
    group = {first = item, texts = {}, marks = {}, bytes = 0}
    groups[#groups + 1] = group
  end
  if piece then
    local gap = follows and tonumber(piece.time) - tonumber(last.time) or 0
    local mark = #piece.text .. ' ' .. gap .. piece.tokens
    group.last, group.bytes = piece, group.bytes + #piece.text + #mark + 1
    group.texts[#group.texts + 1], group.marks[#group.marks + 1] = piece.text, mark
  end
end
-- What the beginning does not gain, the rest won't: nothing is written for nothing.
if not done and #page - #groups < least_saved then return {0} end

for _, group in ipairs(groups) do
  if group.marks[2] then
    redis.call('XADD', new, group.last.id, 'd', table.concat(group.texts), 't', group.last.time,
               'p', table.concat(group.marks, ','))
  else
    redis.call('XADD', new, group.first[1], unpack(group.first[2]))
  end
end
redis.call('EXPIRE', new, 60)  -- should nobody call again
if #page == step then return {1} end
-- Only now: had Redis refused an entry (memory, quota), the log would be as it was.
redis.call('RENAME', new, KEYS[2])
keep()
return {0}
