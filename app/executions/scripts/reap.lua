-- What has to happen when nobody else makes it happen; may be called by anyone, at any time, at once.
--   * A lease that ran out: the next attempt, cancelled, or failed with `WorkerLost`. But if nobody reaped
--     for a while, the store was away, and beats could not arrive: every lease is granted once more.
--   * A delay that is over: into the queue.
--   * Pending for longer than its `expires_in`: failed with `Expired`.
--   * Pending, but in no queue (somebody deleted the queue, or popped from it): into the queue again.
--   * A worker that was not heard of for a lease: it is no longer counted as one.
--   * Ended longer ago than its retention: the record, its outputs and its index entries leave together.
-- Each in batches of 200; the rest is done by the next call, which is then due at once.
-- ARGV: lease in microseconds, retention of completed, of failed, of cancelled ones in microseconds, queues ...
-- Answers the number of microseconds until there is more to do, as far as that is known, or -1.
work_when_full()
local at, lease, said = now(), tonumber(ARGV[1]), redis.pcall('GET', REAPED)
local last = type(said) == 'string' and tonumber(said) or 0
redis.call('SET', REAPED, whole(at))

local BATCH, more = 200, false
local function over(key, limit)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', whole(limit), 'LIMIT', 0, BATCH)
  more = more or #ids == BATCH
  return ids
end

if at - last > lease / 2 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', whole(at + lease))) do
    redis.call('ZADD', LEASES, whole(at + lease), id)
  end
end
for _, id in ipairs(over(LEASES, at)) do
  local record = load(id)
  if record and record.status == 'started' then
    lose(record, at, 'Its worker gave no sign of life for ' .. lease / 1000000 .. ' s.')
  else
    redis.call('ZREM', LEASES, id)
  end
end

for _, id in ipairs(over(DELAYED, at)) do
  redis.call('ZREM', DELAYED, id)
  local record = load(id)
  if record and record.status == 'queued' then
    redis.call('HDEL', job_key(id), 'due')
    redis.call('RPUSH', queue_key(record.origin), id)
  end
end

for _, id in ipairs(over(WAITING, at)) do
  local record = load(id)
  if record and record.status == 'queued' then
    end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
  else
    redis.call('ZREM', WAITING, id)
  end
end

-- Everything that waits is in a queue or delayed; counting tells whether one fell out, without a scan.
local held = redis.call('ZCARD', DELAYED)
for i = 5, #ARGV do held = held + redis.call('LLEN', queue_key(ARGV[i])) end
if redis.call('ZCARD', WAITING) > held then
  local queued = {}
  for i = 5, #ARGV do
    for _, id in ipairs(redis.call('LRANGE', queue_key(ARGV[i]), 0, -1)) do queued[id] = true end
  end
  for _, id in ipairs(redis.call('ZRANGE', WAITING, 0, -1)) do
    if not queued[id] and not redis.call('ZSCORE', DELAYED, id) then
      local record = load(id)
      if record and record.status == 'queued' then
        redis.call('LPUSH', queue_key(record.origin), id)
      else
        redis.call('ZREM', WAITING, id)
      end
    end
  end
end

for _, worker in ipairs(over(WORKERS, at - lease)) do
  redis.call('ZREM', WORKERS, worker)
  redis.call('HDEL', SLOTS, worker)
end

for i, status in ipairs({'completed', 'failed', 'cancelled'}) do
  for _, id in ipairs(over(ENDED .. status, at - ARGV[i + 1])) do
    local record = load(id)
    if record then
      unindex(record, 'all')
      unindex(record, status)
    end
    redis.call('DEL', job_key(id), data_key(id), outputs_key(id), steps_key(id), values_key(id))
    redis.call('ZREM', ENDED .. status, id)
  end
end

if more then return 0 end
local next = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
return next[2] and math.max(0, next[2] - at) or -1
