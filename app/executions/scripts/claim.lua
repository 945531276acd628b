-- pending -> running. Takes up to `count` executions from the head of a queue and starts an attempt of
-- each, with a new fencing token and a lease. There is no moment between leaving the queue and running.
-- What is in the queue but is not pending (delivered twice, cancelled, unreadable) is dropped in silence;
-- what expired while it waited ends here. What the store refuses to start (somebody else's data is under a
-- key) is tried again after a lease. One call claims at most about 1 MiB of payloads, but always at least
-- one execution: if the reply arrives too late, the worker releases the claim.
--
-- A claim has no effect unless its number is the one after the worker's last (see fence.lua). So a claim
-- that the network delivers late, when its worker no longer waits for the reply, takes nothing.
-- A token is `<worker>:<number>:<position>`. Worker names are random and numbers only grow, so no token is
-- ever given out twice, even if the store loses its last writes.
-- ARGV: queue, worker, count, lease in microseconds, number.
-- Returns `late` if the number is not the next one; else a list of {id, token, attempt, retried, timeout,
-- retries, tenant, request_id, data, usage so far, definition, 1 if there are records of steps, traceparent,
--   deaths}.
local queue, worker, number = ARGV[1], ARGV[2], ARGV[5]
local most, lease = bounded(ARGV[3], 0, MAX_COUNT), bounded(ARGV[4], 1, LONGEST)
work_when_full()
if tonumber(redis.call('HGET', CLAIMS, worker) or -1) ~= bounded(number, 0, FOREVER) - 1 then return 'late' end
redis.call('HSET', CLAIMS, worker, number)

local at, claimed, waits, bytes, time_left = now(), {}, {}, 0, time_for(0.005)
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
      local token = worker .. ':' .. number .. ':' .. #claimed + 1
      local attempt = one_more(record.attempt)
      redis.call('ZADD', LEASES, whole(at + lease), id)
      set_status(record, 'running')
      redis.call('HSET', job_key(id), 'attempt', attempt, 'token', token, 'worker', worker,
        'started', whole(at), 'progress', '[0,' .. (record.steps or 1) .. ',null]')
      if not record.queued then waits[#waits + 1] = at - record.created end  -- its first start
      if record.expires then redis.call('HDEL', job_key(id), 'expires') end
      local more = redis.call('HMGET', job_key(id), 'timeout_seconds', 'retries', 'request_id', 'usage', 'definition', 'traceparent')
      bytes = bytes + #data
      claimed[#claimed + 1] = {id, token, tostring(attempt), tostring(record.retried), more[1] or '', more[2] or '',
        record.tenant, more[3] or '', data, more[4] or '', more[5] or '', steps == 'hash' and '1' or '0', more[6] or '',
        tostring(record.deaths)}
    end
  end
  redis.call('ZREM', WAITING, id)  -- last: if a call above fails, the reaper queues the execution again
end

while #claimed < most and bytes < 1024 * 1024 and time_left() do
  local id = redis.call('LPOP', queue_key(queue))
  if not id then break end
  if not dealt_with('claim_refused', id, take, id) then redis.pcall('ZADD', DELAYED, whole(at + lease), id) end
end
count_durations('w:' .. queue, waits)
return claimed
