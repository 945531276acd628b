-- Reads all counters and gauges at one instant. The web side calls it for `/metrics` and `/stats`.
-- It looks for the oldest execution of a queue among the first hundred: the others came later, or
-- were moved to the front. A key of the wrong type reads as empty, so that the rest is still shown.
-- ARGV: lease in microseconds, then the queues.
-- Returns {counters as field, value, ...; running; delayed; {length, age of the oldest in
-- microseconds} for each queue; {queue:name, used/all slots, ...} of the workers that are alive}.
local function oldest_in(queue, at)
  local oldest = at
  for _, id in ipairs(ask({}, 'LRANGE', queue, 0, 99)) do
    local since = microseconds(ask(false, 'HGET', job_key(id), 'enqueued_at') or '')
    if since then oldest = math.min(oldest, since) end
  end
  return oldest
end

local function deliveries(at)
  local key, first = queue_key(WEBHOOKS), ask({}, 'ZRANGE', UNDELIVERED, 0, 0, 'WITHSCORES')
  local age = math.max(0, at - (tonumber(first[2]) or at))
  return {ask(0, 'ZCARD', UNDELIVERED), integer(age), ask(0, 'LLEN', key),
    integer(at - oldest_in(key, at))}
end

local function run(ARGV)
  local lease, names = bounded(ARGV[1], 1, LONGEST), {unpack(ARGV, 2)}
  local at, queues, workers = now(), {}, {}
  for i = 1, #names do
    local key = queue_key(names[i])
    queues[i] = {ask(0, 'LLEN', key), integer(at - oldest_in(key, at))}
  end
  for _, worker in ipairs(ask({}, 'ZRANGEBYSCORE', WORKERS, integer(at - lease), '+inf')) do
    workers[#workers + 1] = worker
    workers[#workers + 1] = ask(false, 'HGET', SLOTS, worker) or '0/0'
  end
  local running, delayed = ask(0, 'ZCARD', LEASES), ask(0, 'ZCARD', DELAYED)
  return {ask({}, 'HGETALL', COUNTS), running, delayed, queues, workers, deliveries(at)}
end
