-- One bucket of requests and tokens a minute, of an endpoint and model: whoever calls it asks here.
-- A call goes when three things allow it: the pace (no faster than the limit, but for what was late),
-- the window (what went in the last minute), and the turn: of several groups each gets its share.
-- KEYS[1] the bucket, JSON   KEYS[2] who waits, by turn   KEYS[3] the same, by when they come again
-- ARGV[1] what   ARGV[2] a minute, ms   ARGV[3] the time, ms; '': Redis' own   ARGV[4] who: a group
-- 'ask': ARGV[5] task   ARGV[6] rpm, 0: none   ARGV[7] tpm   ARGV[8] tokens of the prompt, estimated
--   ARGV[9] most of the answer. Returns 'go' slot, tokens reserved | 'wait' ms.
-- 'leave': ARGV[5] task, which won't come again.
-- 'settle': ARGV[5] slot   ARGV[6] reserved   ARGV[7] tokens of the prompt, estimated   ARGV[8] counted,
--   or ''   ARGV[9] of the answer   ARGV[10] '1': the service refused   ARGV[11] no call for so long, ms
--   ARGV[12] the service's own rpm, 0: not told   ARGV[13] tpm
local slots = 60  -- of a minute: what counts for a window is up to one longer than a minute
local minute, who = tonumber(ARGV[2]), ARGV[4]
local width, late = minute / slots, minute / 16
local time = tonumber(ARGV[3]) or tonumber(now)
local state = cjson.decode(redis.call('GET', KEYS[1]) or '{}')
-- A clock that went back: what was noted of the time after is void.
if (state.at or 0) > time + minute then state.calls, state.tokens, state.hold, state.slots = nil, nil, nil, nil end
state.at, state.groups = time, state.groups or {}
local group = state.groups[who] or {ratio = 1, tag = 0, count = 0, waiting = 0}
state.groups[who] = group

-- The smallest of the limits that somebody who was here in the last minutes keeps; 0: none.
local function smallest(name)
  local least = 0
  local function take(limit)
    if limit and limit > 0 and (least == 0 or limit < least) then least = limit end
  end
  for _, other in pairs(state.groups) do take(other[name]) end
  if time < (state.told or 0) + 10 * minute then take(state[name]) end
  return least * (state.factor or 1)
end

-- The parts of a minute that a call takes, and its tokens.
local function costs_of(rpm, tpm, tokens)
  return rpm > 0 and 1 / rpm or 0, tpm > 0 and tokens / tpm or 0
end

local function learn(mean, count, value)
  return mean + (value - mean) / math.min(count, 20)
end

local function leave(name)
  if redis.call('ZREM', KEYS[2], name) == 0 then return end
  redis.call('ZREM', KEYS[3], name)
  local of = state.groups[string.match(name, '^[^|]*')]
  if of then of.waiting = math.max(0, of.waiting - 1) end
end

local function forget_old()
  local kept = {}
  for _, slot in ipairs(state.slots or {}) do
    if time < (slot[1] + 1) * width + minute then kept[#kept + 1] = slot end
  end
  state.slots = kept
  for name, other in pairs(state.groups) do
    if name ~= who and time > (other.seen or 0) + 5 * minute then state.groups[name] = nil end
  end
  -- Who has not come again in time, does not.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(time - minute))) do
    leave(name)
  end
end

-- How long until so much fits into the window, ms.
local function wait_for_window(place, limit, wanted)
  if limit <= 0 then return 0 end
  local used = 0
  for _, slot in ipairs(state.slots) do used = used + slot[place] end
  if used == 0 then return 0 end  -- more than a minute's worth at once: it goes alone
  for _, slot in ipairs(state.slots) do
    if used + wanted <= limit then break end
    used = used - slot[place]
    if used + wanted <= limit or used <= 0 then return (slot[1] + 1) * width + minute - time end
  end
  return 0
end

local function wait_for(before, rpm, tpm, tokens)
  local call, piece = costs_of(rpm, tpm, tokens)
  local most = rpm > 0 and math.max(0, math.floor(rpm) - 1) or before
  local ahead = math.min(before, most)
  local wait = math.max((state.hold or 0) - time, state.calls + before * call * minute - time,
                        state.tokens + before * piece * minute - time,
                        wait_for_window(2, math.max(1, math.floor(rpm)) * (rpm > 0 and 1 or 0), ahead + 1))
  local room = tpm > 0 and math.min((ahead + 1) * tokens, math.max(tpm, tokens)) or 0
  return math.max(wait, wait_for_window(3, tpm, room))
end

local function ask()
  local name = who .. '|' .. ARGV[5]
  group.seen, group.rpm, group.tpm = time, tonumber(ARGV[6]), tonumber(ARGV[7])
  forget_old()
  local rpm, tpm = smallest('rpm'), smallest('tpm')
  local tokens = math.ceil(ARGV[8] * group.ratio) + math.min(ARGV[9], group.answer or 500)
  if tpm > 0 then tokens = math.min(tokens, math.floor(tpm)) end
  local call, piece = costs_of(rpm, tpm, tokens)
  state.calls = math.max(state.calls or 0, time - late)
  state.tokens = math.max(state.tokens or 0, time - late)
  local tag = tonumber(redis.call('ZSCORE', KEYS[2], name) or nil)
  local is_new = not tag
  if is_new then
    -- What was asked for and given up does not count for long.
    if group.waiting == 0 then group.tag = math.min(group.tag, (state.turn or 0) + 0.25) end
    -- Before its first answer what a call takes is a guess that would put the group behind others.
    local share = (group.count > 0 or rpm <= 0) and math.max(call, piece) or call
    tag = math.max(group.tag, state.turn or 0) + share
    group.tag = tag
  end
  -- Before this one go those with an earlier turn, as far as they are about to come.
  local due, before = 0, redis.call('ZCOUNT', KEYS[2], '-inf', string.format('(%.17g', tag))
  local soon = redis.call('ZRANGEBYSCORE', KEYS[3], whole(time - late), whole(time + minute / 40))
  for _, other in ipairs(soon) do
    if tonumber(redis.call('ZSCORE', KEYS[2], other)) < tag then due = due + 1 end
  end
  if wait_for(due, rpm, tpm, tokens) <= 0 then
    leave(name)
    -- Who comes new stands behind those served, but not behind one who overtook others that wait.
    local first = redis.call('ZRANGE', KEYS[2], '0', '0', 'WITHSCORES')[2]
    state.turn = math.max(state.turn or 0, math.min(tag, tonumber(first) or tag))
    state.calls, state.tokens = state.calls + call * minute, state.tokens + piece * minute
    local slot = math.floor(time / width)
    local last = state.slots[#state.slots]
    if not last or last[1] ~= slot then
      last = {slot, 0, 0}
      state.slots[#state.slots + 1] = last
    end
    last[2], last[3] = last[2] + 1, last[3] + tokens
    return {'go', slot, tokens}
  end
  local wait = math.max(1, math.ceil(wait_for(before, rpm, tpm, tokens)))
  -- Before the first answer this is a guess, and may be much too long.
  if group.count == 0 then wait = math.min(wait, math.ceil(late)) end
  redis.call('ZADD', KEYS[2], tag, name)
  redis.call('ZADD', KEYS[3], whole(time + wait), name)
  if is_new then group.waiting = group.waiting + 1 end
  return {'wait', wait}
end

local function settle()
  local rpm, tpm = smallest('rpm'), smallest('tpm')
  local reserved, is_refused = tonumber(ARGV[6]), ARGV[10] == '1'
  local counted, used = tonumber(ARGV[8]), is_refused and 0 or reserved
  if counted then
    used = counted + ARGV[9]
    group.count = group.count + 1
    group.ratio = learn(group.ratio, group.count, counted / math.max(1, ARGV[7]))
    group.answer = learn(group.answer or 0, group.count, tonumber(ARGV[9]))
  end
  for _, slot in ipairs(state.slots or {}) do
    if slot[1] == tonumber(ARGV[5]) then slot[3] = math.max(0, slot[3] + used - reserved) end
  end
  local call, taken = costs_of(rpm, tpm, used)
  local _, held = costs_of(rpm, tpm, reserved)
  if state.tokens then state.tokens = state.tokens + (taken - held) * minute end
  if tonumber(ARGV[12]) > 0 or tonumber(ARGV[13]) > 0 then
    state.told, state.rpm, state.tpm = time, tonumber(ARGV[12]), tonumber(ARGV[13])
  end
  if is_refused then
    -- All who were refused at once were so for one reason; and a single one may be chance.
    local by = time > (state.shrunk or 0) + minute and 0.93 or 0.75
    if time > (state.shrunk or 0) + minute / 10 then
      state.factor, state.shrunk = math.max(0.05, (state.factor or 1) * by), time
    end
  else
    state.factor = math.min(1, (state.factor or 1) + math.max(call, taken) * 0.6)
  end
  local hold = tonumber(ARGV[11])
  if hold > 0 then state.hold = math.max(state.hold or 0, time + hold) end
  return {'settled'}
end

local reply = {'left'}
if ARGV[1] == 'ask' then reply = ask() end
if ARGV[1] == 'settle' then reply = settle() end
if ARGV[1] == 'leave' then leave(who .. '|' .. ARGV[5]) end
local lives = whole(math.max(600, math.ceil(minute / 100)))
redis.call('SET', KEYS[1], cjson.encode(state), 'EX', lives)
redis.call('EXPIRE', KEYS[2], '90000')
redis.call('EXPIRE', KEYS[3], '90000')
return reply
