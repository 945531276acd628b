-- Reads the counters and what there is right now, all from the same instant.
-- ARGV: lease in microseconds, then the queues.
-- Answers {counters as field, value, ...; running; delayed; {length, age of the oldest in microseconds} for
-- each queue; {queue:name, used/all slots, ...} of the workers that live}.
-- The oldest of a queue is sought among its first hundred: others came after these, or were moved up.
local at, queues, workers = now(), {}, {}
for i = 2, #ARGV do
  local key, oldest = queue_key(ARGV[i]), at
  for _, id in ipairs(redis.call('LRANGE', key, 0, 99)) do
    local record = load(id)
    if record then oldest = math.min(oldest, tonumber(record.queued or record.created)) end
  end
  queues[#queues + 1] = {redis.call('LLEN', key), whole(at - oldest)}
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, whole(at - ARGV[1]), '+inf')) do
  workers[#workers + 1] = worker
  workers[#workers + 1] = redis.call('HGET', SLOTS, worker) or '0/0'
end
local counts = redis.pcall('HGETALL', COUNTS)
return {counts.err and {} or counts, redis.call('ZCARD', LEASES), redis.call('ZCARD', DELAYED), queues, workers}
