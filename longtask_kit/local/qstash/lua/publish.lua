-- Store messages with what they set up, unless they are duplicates.
-- Asking twice with one plan stores once: a script whose reply was lost may be repeated.
-- Returns for each message the id that now stands for it; nothing if the dead letter to be sent
-- again is gone; `plan.quota.spent` alone if the day's messages are used up.
local used = plan.quota and tonumber(redis.call('GET', plan.quota.key) or '0')
if used and used + #plan.messages > plan.quota.most then return {plan.quota.spent} end
if plan.dead_letter_id and redis.call('EXISTS', message_key(plan.messages[1].id)) == 0 then
  if redis.call('HDEL', '{qstash}:dead', plan.dead_letter_id) == 0 then return {} end
  redis.call('ZREM', '{qstash}:dead_index', plan.dead_letter_id)
end
for name, queue in pairs(plan.queues) do redis.call('HSETNX', '{qstash}:queues', name, queue) end
for key, flow in pairs(plan.flows) do redis.call('HSET', '{qstash}:flows', key, flow) end
local ids, stored = {}, 0
for i, message in ipairs(plan.messages) do
  ids[i] = message.id
  if redis.call('EXISTS', message_key(message.id)) == 0 then
    local key = message.dedup_key and '{qstash}:dedup:' .. message.dedup_key
    local first = key and redis.call('GET', key)
    if first then
      ids[i] = first
    else
      if key then redis.call('SET', key, message.id, 'PX', plan.dedup_window_ms) end
      store(message)
      stored = stored + 1
    end
  end
end
if used then redis.call('SET', plan.quota.key, used + stored, 'EX', 172800) end
return ids
