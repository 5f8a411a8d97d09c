-- End an attempt: another due time, or the end with or without a dead letter.
-- Returns 1, or 0 and changes nothing if the message is no longer pending: it was cancelled in the
-- meantime, and its outcome counts for nothing.
if not redis.call('ZSCORE', '{qstash}:pending', plan.id) then return 0 end
for _, event in ipairs(plan.events) do record(event) end
if plan.due_ms then
  redis.call('HSET', message_key(plan.id), 'retried', plan.retried)
  redis.call('ZADD', '{qstash}:pending', plan.due_ms, plan.id)
else
  redis.call('ZREM', '{qstash}:pending', plan.id)
  redis.call('PEXPIRE', message_key(plan.id), plan.readable_ms)
  local states = plan.schedule_id and states_key(plan.schedule_id)
  -- Only the last run's messages are counted there.
  if states and redis.call('HEXISTS', states, plan.id) == 1 then
    redis.call('HSET', states, plan.id, plan.schedule_state)
  end
end
if plan.dead_letter then
  redis.call('HSET', '{qstash}:dead', plan.dead_letter.id, plan.dead_letter.record)
  redis.call('ZADD', '{qstash}:dead_index', plan.dead_letter.time_ms, plan.dead_letter.id)
end
for _, message in ipairs(plan.messages) do store(message) end
return 1
