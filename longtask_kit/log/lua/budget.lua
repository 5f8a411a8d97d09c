-- What a group may spend: tokens, or their price.
-- KEYS[1] the group   ARGV[1] what   ARGV[2] task   then
-- 'ask': ARGV[3] tokens of the prompt, estimated   ARGV[4] most of the answer   ARGV[5] ms that what is
--   reserved stands   ARGV[6] number of the attempt   ARGV[7], [8] tokens that the one before has asked
--   and answered, should it have died before it told them   Returns 'go' | 'wait' until calls under way have told what they took | 'stop'
--   | 'gone': nobody knows what it may spend, so it spends nothing.
-- 'settle': ARGV[3] tokens of the prompt, estimated   ARGV[4] counted, or '': it failed
--   ARGV[5] of the answer
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local function read(name) return tonumber(redis.call('HGET', KEYS[1], name) or nil) end
local budget, held = read('budget'), 'held:' .. ARGV[2]
local price_in, price_out = read('price_in') or 1, read('price_out') or 1
local answers = read('answers') or 0
local spent = (read('counted') or 0) * price_in + (read('answered') or 0) * price_out

if ARGV[1] == 'settle' then
  redis.call('HDEL', KEYS[1], held)
  if ARGV[4] == '' then return {'settled'} end
  redis.call('HINCRBY', KEYS[1], 'answers', 1)
  redis.call('HINCRBY', KEYS[1], 'estimated', ARGV[3])
  redis.call('HINCRBY', KEYS[1], 'counted', ARGV[4])
  redis.call('HINCRBY', KEYS[1], 'answered', ARGV[5])
  return {'settled'}
end

if not budget then return {'go'} end
-- What is reserved still, and for another attempt, was told by nobody.
local of = string.match(redis.call('HGET', KEYS[1], held) or '', '%S+ %S+ (%S+)')
if of and of ~= ARGV[6] then
  redis.call('HDEL', KEYS[1], held)
  redis.call('HINCRBY', KEYS[1], 'counted', ARGV[7])
  redis.call('HINCRBY', KEYS[1], 'answered', ARGV[8])
  if ARGV[8] ~= '0' then
    redis.call('HINCRBY', KEYS[1], 'answers', 1)
    redis.call('HINCRBY', KEYS[1], 'estimated', ARGV[7])
  end
  answers = read('answers') or 0
  spent = (read('counted') or 0) * price_in + (read('answered') or 0) * price_out
end
local under_way = 0
local facts = redis.call('HGETALL', KEYS[1])
for i = 1, #facts, 2 do
  if string.sub(facts[i], 1, 5) == 'held:' and facts[i] ~= held then
    local amount, ends, rest = string.match(facts[i + 1], '(%S+) (%S+)(.*)')
    if tonumber(ends) > now + ARGV[5] then  -- given before the clock went back: it begins anew
      redis.call('HSET', KEYS[1], facts[i], amount .. ' ' .. whole(now + ARGV[5]) .. rest)
    end
    -- Who died on his way told nothing.
    if tonumber(ends) < tonumber(now) then
      redis.call('HDEL', KEYS[1], facts[i])
    else
      under_way = under_way + amount
    end
  end
end
local prompt, answer = tonumber(ARGV[3]), tonumber(ARGV[4])
if answers > 0 then
  prompt = prompt * (read('counted') or 1) / math.max(1, read('estimated') or 1)
  answer = math.min(answer, (read('answered') or 0) / answers)
end
local cost = prompt * price_in + answer * price_out
local is_first = spent == 0 and under_way == 0  -- its answer tells what the others take
local least = answers > 0 and cost or prompt * price_in
if spent + least > budget and not is_first then
  redis.call('HDEL', KEYS[1], held)
  redis.call('HSET', KEYS[1], 'code', 'budget')
  return {'stop'}
end
if spent + under_way + cost > budget and not is_first then return {'wait'} end
redis.call('HSET', KEYS[1], held, string.format('%.17g', cost) .. ' ' .. whole(now + ARGV[5]) .. ' ' .. ARGV[6])
return {'go'}
