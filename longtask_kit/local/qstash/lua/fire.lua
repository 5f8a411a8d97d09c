-- Take a schedule's turn and store its messages in one step, so that a crash can neither lose nor
-- double a run.
-- Returns 1, or 0 if the schedule was changed since it was read: it waits for its new turn.
local due = redis.call('ZSCORE', '{qstash}:schedule_index', plan.id)
if not due or tonumber(due) ~= tonumber(plan.due_ms) then return 0 end
if redis.call('HGET', '{qstash}:schedules', plan.id) ~= plan.record then return 0 end
redis.call('ZADD', '{qstash}:schedule_index', plan.next_ms, plan.id)
redis.call('HSET', '{qstash}:schedule_last', plan.id, plan.time_ms)
redis.call('HDEL', '{qstash}:schedule_errors', plan.id)
if plan.error then redis.call('HSET', '{qstash}:schedule_errors', plan.id, plan.error) end
redis.call('DEL', states_key(plan.id))
for name, queue in pairs(plan.queues) do redis.call('HSETNX', '{qstash}:queues', name, queue) end
for key, flow in pairs(plan.flows) do redis.call('HSET', '{qstash}:flows', key, flow) end
for _, message in ipairs(plan.messages) do
  redis.call('HSET', states_key(plan.id), message.id, 'IN_PROGRESS')
  store(message)
end
return 1
