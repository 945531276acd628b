-- pending -> running. Takes up to `count` executions from the head of a queue and starts an attempt of
-- each, with a new fencing token and a lease. There is no moment between leaving the queue and running.
-- What is in the queue but is not pending (delivered twice, cancelled, unreadable) is dropped in silence;
-- what expired while it waited ends here. One call claims at most about 1 MiB of payloads, but always at
-- least one execution: if the reply arrives too late, the worker releases the claim.
--
-- A claim has no effect unless its number is the one after the worker's last (see fence.lua). So a claim
-- that the network delivers late, when its worker no longer waits for the reply, takes nothing.
-- A token is `<worker>:<number>:<position>`. Worker names are random and numbers only grow, so no token is
-- ever given out twice, even if the store loses its last writes.
-- ARGV: queue, worker, count, lease in microseconds, number.
-- Returns `late` if the number is not the next one; else a list of {id, token, attempt, retried, timeout,
-- retries, tenant, request_id, data, usage so far, definition, 1 if there are records of steps, traceparent}.
local queue, worker, wanted, lease, number = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
work_when_full()
if tonumber(redis.call('HGET', CLAIMS, worker) or -1) ~= number - 1 then return 'late' end
redis.call('HSET', CLAIMS, worker, number)

local at, claimed, waits, bytes = now(), {}, {}, 0
while #claimed < wanted and bytes < 1024 * 1024 do
  local id = redis.call('LPOP', queue_key(queue))
  if not id then break end
  local record = load(id)
  if record and record.status == 'queued' then
    record.popped = true
    if tonumber(record.expires or 'inf') <= at then
      end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
    else
      local token = worker .. ':' .. number .. ':' .. #claimed + 1
      redis.call('ZADD', LEASES, whole(at + lease), id)
      set_status(record, 'running')
      redis.call('HSET', job_key(id), 'attempt', record.attempt + 1, 'token', token, 'worker', worker,
        'started', whole(at), 'progress', '[0,' .. (record.steps or 1) .. ',null]')
      if not record.queued then waits[#waits + 1] = at - record.created end  -- its first start
      if record.expires then redis.call('HDEL', job_key(id), 'expires') end
      local more = redis.call('HMGET', job_key(id), 'timeout_seconds', 'retries', 'request_id', 'usage', 'definition', 'traceparent')
      local steps = record.type == 'pipeline' and redis.call('EXISTS', steps_key(id)) or 0
      local data = redis.call('GET', data_key(id)) or ''
      bytes = bytes + #data
      claimed[#claimed + 1] = {id, token, tostring(record.attempt + 1), tostring(record.retried), more[1] or '', more[2] or '',
        record.tenant, more[3] or '', data, more[4] or '', more[5] or '', tostring(steps), more[6] or ''}
    end
  end
  redis.call('ZREM', WAITING, id)  -- last: if a call above fails, the reaper queues the execution again
end
count_durations('w:' .. queue, waits)
return claimed
