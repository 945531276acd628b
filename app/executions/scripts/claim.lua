-- pending -> running. Takes up to `count` executions from the head of a queue and starts an attempt of
-- each, with a new fencing token and a lease. There is no moment between leaving the queue and running.
-- What is in the queue but is not pending (delivered twice, cancelled, unreadable) is dropped in silence;
-- what expired while it waited ends here, and what the store refuses to start (somebody else's data is under a key) is
-- tried again after a lease. What is claimed in one call is about a MiB at most, or one execution: a claim whose answer
-- takes too long to arrive is a claim that is handed back.
-- ARGV: queue, worker, count, lease in microseconds.
-- Answers a list of {id, token, attempt, retried, timeout, retries, tenant, request_id, data, usage so far,
-- definition, 1 where there are records of steps, traceparent}.
work_when_full()
local at, claimed, waits, bytes = now(), {}, {}, 0
local most, lease, time_left = bounded(ARGV[3], 0, MAX_COUNT), bounded(ARGV[4], 1, LONGEST), time_for(0.005)
for _, key in ipairs({LEASES, WAITING}) do redis.call('ZCARD', key) end  -- refused before anything leaves the queue

local function take(id)
  local record = load(id)
  if record and record.status == 'queued' then
    record.popped = true
    local data, steps = ask(false, 'GET', data_key(id)), redis.call('TYPE', steps_key(id)).ok
    if not data or (steps ~= 'none' and steps ~= 'hash') then
      quarantine(record, {data and 'steps' or 'data'})
    elseif tonumber(record.expires or 'inf') <= at then
      end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
    else
      local token = redis.call('INCR', TOKEN)
      redis.call('ZADD', LEASES, whole(at + lease), id)
      set_status(record, 'running')
      redis.call('HSET', job_key(id), 'attempt', one_more(record.attempt), 'token', token, 'worker', ARGV[2],
        'started', whole(at), 'progress', '[0,' .. (record.steps or 1) .. ',null]')
      if not record.queued then waits[#waits + 1] = at - record.created end  -- its first start
      if record.expires then redis.call('HDEL', job_key(id), 'expires') end
      local more = redis.call('HMGET', job_key(id), 'timeout_seconds', 'retries', 'request_id', 'usage', 'definition', 'traceparent')
      bytes = bytes + #data
      claimed[#claimed + 1] = {id, tostring(token), tostring(one_more(record.attempt)), tostring(record.retried), more[1] or '', more[2] or '',
        record.tenant, more[3] or '', data, more[4] or '', more[5] or '', steps == 'hash' and '1' or '0', more[6] or ''}
    end
  end
  redis.call('ZREM', WAITING, id)  -- at last: where one of the calls above is refused, the reaper queues it again
end

while #claimed < most and bytes < 1024 * 1024 and time_left() do
  local id = redis.call('LPOP', queue_key(ARGV[1]))
  if not id then break end
  if not dealt_with('claim_refused', id, take, id) then redis.pcall('ZADD', DELAYED, whole(at + lease), id) end
end
count_durations('w:' .. ARGV[1], waits)
return claimed
