-- Store an ended task's text in fewer entries, where one of a single token takes five times its text.
-- Successive entries of a kind of text become one, with the id and time of the last; its field `p` says how
-- to take it apart again (events.py). Readers get the same events, so nothing is published.
-- A step at a time, as a long log would hold up everybody's Redis for a second: each moves some
-- entries to a new log, which takes the place of the old one when it is whole.
-- KEYS[4] the new log
-- Returns 1 to be called again | 0 done, or nothing to gain.
local step = 500  -- entries: a few ms
local most_bytes = 1024  -- an entry, about: readers ask for a thousand at once, which stays near 1 MB
local least_saved = 64  -- entries: a log of fewer fits into the 4 KiB that a stream takes at least

local new = KEYS[4]
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
  local kind, at = 'content', 1
  if fields[1] == 'k' then kind, at = fields[2], 3 end
  if kind ~= 'content' and kind ~= 'reasoning' and kind ~= 'refusal' then return nil end
  local names = (fields[at] or '') .. (fields[at + 2] or '') .. (fields[at + 4] or '')
  if names ~= 'dt' and names ~= 'dnt' or #fields ~= at + 2 * #names - 1 then return nil end
  return {id = id, attempt = attempt, seq = tonumber(seq), kind = kind, text = fields[at + 1],
          time = fields[#fields], tokens = names == 'dnt' and ' ' .. fields[at + 3] or ''}
end

local groups = {}  -- of what becomes one entry
for _, item in ipairs(page) do
  local piece, group = read_piece(item[1], item[2]), groups[#groups]
  local last = piece and group and group.last
  local follows = last and piece.attempt == last.attempt and piece.seq == last.seq + 1
                  and piece.kind == last.kind and group.bytes + #piece.text <= most_bytes
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
    local fields = {'d', table.concat(group.texts), 't', group.last.time,
                    'p', table.concat(group.marks, ',')}
    if group.last.kind ~= 'content' then fields = {'k', group.last.kind, unpack(fields)} end
    redis.call('XADD', new, group.last.id, unpack(fields))
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
