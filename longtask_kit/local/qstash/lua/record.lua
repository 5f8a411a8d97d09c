-- Append to the log only while the message is pending: nothing follows CANCELED. What the start
-- takes of a rate is kept with it, so that a crash doesn't begin a long period anew.
-- Returns 1, or 0 if the message is no longer pending.
if not redis.call('ZSCORE', '{qstash}:pending', plan.event.id) then return 0 end
record(plan.event)
if plan.period then
  redis.call('HSET', '{qstash}:flow_periods', plan.period.key, plan.period.record)
end
return 1
