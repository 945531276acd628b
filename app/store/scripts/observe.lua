-- Reads the counters and what there is right now, all from the same instant.
-- ARGV: lease in microseconds, then the queues.
-- Answers {counters as field, value, ...; running; delayed; {length, age of the oldest in microseconds} for
-- each queue; {queue:name, used/all slots, ...} of the workers that live}.
-- The oldest of a queue is sought among its first hundred: others came after these, or were moved up.
-- A key with somebody else's data under it is read as empty: the others are still to be seen.
local function run(ARGV)
  local at, lease, queues, workers = now(), bounded(ARGV[1], 1, LONGEST), {}, {}
  for i = 2, #ARGV do
    local key, oldest = queue_key(ARGV[i]), at
    for _, id in ipairs(ask({}, 'LRANGE', key, 0, 99)) do
      local since = microseconds(ask(false, 'HGET', job_key(id), 'enqueued_at') or '')
      if since then oldest = math.min(oldest, since) end
    end
    queues[#queues + 1] = {ask(0, 'LLEN', key), whole(at - oldest)}
  end
  for _, worker in ipairs(ask({}, 'ZRANGEBYSCORE', WORKERS, whole(at - lease), '+inf')) do
    workers[#workers + 1] = worker
    workers[#workers + 1] = ask(false, 'HGET', SLOTS, worker) or '0/0'
  end
  return {ask({}, 'HGETALL', COUNTS), ask(0, 'ZCARD', LEASES), ask(0, 'ZCARD', DELAYED), queues, workers}
end
