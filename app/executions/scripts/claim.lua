-- pending -> running. Takes up to `count` executions from the head of a queue and starts an attempt of
-- each, with a new fencing token and a lease. There is no moment between leaving the queue and running.
-- What is in the queue but is not pending (delivered twice, cancelled, unreadable) is dropped in silence;
-- what expired while it waited ends here. What is claimed in one call is about a MiB at most, or one execution:
-- a claim whose answer takes too long to arrive is a claim that is handed back.
-- ARGV: queue, worker, count, lease in microseconds.
-- Answers a list of {id, token, attempt, retried, timeout, retries, tenant, request_id, data, usage so far,
-- definition, 1 where there are records of steps, traceparent}.
work_when_full()
local at, claimed, waits, bytes = now(), {}, {}, 0
while #claimed < tonumber(ARGV[3]) and bytes < 1024 * 1024 do
  local id = redis.call('LPOP', queue_key(ARGV[1]))
  if not id then break end
  local record = load(id)
  if record and record.status == 'queued' then
    record.popped = true
    if tonumber(record.expires or 'inf') <= at then
      end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
    else
      local token = redis.call('INCR', TOKEN)
      redis.call('ZADD', LEASES, whole(at + ARGV[4]), id)
      set_status(record, 'running')
      redis.call('HSET', job_key(id), 'attempt', record.attempt + 1, 'token', token, 'worker', ARGV[2],
        'started', whole(at), 'progress', '[0,' .. (record.steps or 1) .. ',null]')
      if not record.queued then waits[#waits + 1] = at - record.created end  -- its first start
      if record.expires then redis.call('HDEL', job_key(id), 'expires') end
      local more = redis.call('HMGET', job_key(id), 'timeout_seconds', 'retries', 'request_id', 'usage', 'definition', 'traceparent')
      local steps = record.type == 'pipeline' and redis.call('EXISTS', steps_key(id)) or 0
      local data = redis.call('GET', data_key(id)) or ''
      bytes = bytes + #data
      claimed[#claimed + 1] = {id, tostring(token), tostring(record.attempt + 1), tostring(record.retried), more[1] or '', more[2] or '',
        record.tenant, more[3] or '', data, more[4] or '', more[5] or '', tostring(steps), more[6] or ''}
    end
  end
  redis.call('ZREM', WAITING, id)  -- at last: where one of the calls above is refused, the reaper queues it again
end
count_durations('w:' .. ARGV[1], waits)
return claimed
