-- pending -> running. Takes up to `count` executions from the front of a queue and starts an
-- attempt of each, with a new fencing token and a lease. There is no moment between leaving the
-- queue and running.
-- A worker calls it when it has free slots. An entry of the queue that is not pending (queued
-- twice, cancelled, unreadable) is dropped silently; one that has expired ends here. If the store
-- refuses to start one (a key of it has the wrong type), it is tried again after a lease. One call
-- claims at most about 1 MiB of payloads, but always at least one execution: if the reply arrives
-- too late, the worker releases the claim.
--
-- A claim has no effect unless its number is the one after the worker's last (see fence.lua). So a
-- claim that the network delivers late, when its worker no longer waits for the reply, takes
-- nothing. A token is `<worker>:<number>:<position>`. Worker names are random and numbers only
-- grow, so no token is ever given out twice, even if the store loses its last writes.
-- ARGV: queue, worker, count, lease in microseconds, number.
-- Returns `late` if the number is not the next one; else a list of {id, token, attempt, retried,
-- timeout, retries, tenant, request_id, data, usage so far, definition, 1 if there are records of
-- steps, traceparent, deaths, 1 if somebody follows the events, else ''}.
local CLAIMED = {'status', 'tenant', 'type', 'target', 'origin', 'meta', 'created_at',
                 'enqueued_at', 'started_at', 'ended_at', 'timeout', 'worker_name', 'attempt',
                 'token', 'cancel', 'steps', 'lost', 'retried', 'max_attempts', 'expires',
                 'retries', 'timeout_seconds', 'deaths', 'request_id', 'usage', 'definition',
                 'traceparent', 'version', 'callback', 'tags', 'listened'}

local MAX_ENTRIES = 1000  -- `unpack` holds a few thousand values
local MAX_BYTES = 1024 * 1024

-- Starts an attempt. Returns what the worker receives, and the record; nil if it was not started.
local function start(id, token, worker, at)
  local record = load(id, CLAIMED)
  if not record or record.state ~= 'pending' then return nil end
  record.popped = true
  local data, steps = ask(false, 'GET', data_key(id)), ask(false, 'HLEN', steps_key(id))
  if not data or not steps then
    quarantine(record, {data and 'steps' or 'data'})
    return nil
  end
  if record.expires and tonumber(record.expires) <= at then
    end_as(record, 'failed', at, expired(record))
    return nil
  end
  local key, attempt = job_key(id), one_more(record.attempt)
  local progress = '[0,' .. (record.steps or 1) .. ',null]'
  move_index(record, 'running')
  local version = tell(record, at, 'started', attempt_data(attempt))
  call('HSET', key, 'status', 'started', 'meta', meta('running', progress), 'attempt', attempt,
    'token', token, 'worker_name', worker, 'started_at', iso(at), 'version', version)
  if record.expires then call('HDEL', key, 'expires') end
  if version > 2 then call('HSET', key, 'told', 0) end  -- this attempt's child begins at 1 again
  local row = {id, token, tostring(attempt), tostring(record.retried),
    record.timeout_seconds or record.timeout, record.retries or '', record.tenant,
    record.request_id or '', data, record.usage or '', record.definition or '',
    steps > 0 and '1' or '0', record.traceparent or '', tostring(record.deaths),
    record.listened and '1' or ''}
  return row, record
end

local function run(ARGV)
  local queue, worker, number = ARGV[1], ARGV[2], ARGV[5]
  local most, lease = bounded(ARGV[3], 0, MAX_COUNT), bounded(ARGV[4], 1, LONGEST)
  local last = tonumber(call('HGET', CLAIMS, worker) or -1)
  if last ~= bounded(number, 0, FOREVER) - 1 then return 'late' end
  call('HSET', CLAIMS, worker, number)
  if most < 1 then return {} end

  local at, claimed, bytes, time_left = now(), {}, 0, time_for(0.005)
  call('ZCARD', LEASES)  -- if a key has the wrong type, this fails before anything leaves the queue
  call('ZCARD', WAITING)
  local ids = call('LRANGE', queue_key(queue), 0, math.min(most, MAX_ENTRIES) - 1)
  local passed, waiting, leases, started, first_waits = 0, {}, {}, {}, {}
  for i = 1, #ids do
    if bytes >= MAX_BYTES or not time_left() then break end
    local id, token = ids[i], worker .. ':' .. number .. ':' .. #claimed + 1
    local done, row, record = dealt_with('claim_refused', id, start, id, token, worker, at)
    passed = i
    if done then
      waiting[#waiting + 1] = id
    else
      call('ZADD', LEASES, integer(at + lease), id)  -- its record may already say that it runs
      try('ZADD', DELAYED, integer(at + lease), id)
    end
    if done and row then
      claimed[#claimed + 1], bytes = row, bytes + #row[9]
      leases[#leases + 1], leases[#leases + 2] = integer(at + lease), id
      started[#started + 1], started[#started + 2] = rq_score(at), id .. ':' .. row[3]
      if record.enqueued == record.created then
        first_waits[#first_waits + 1] = at - record.created
      end
    end
  end
  if passed > 0 then call('LPOP', queue_key(queue), passed) end
  if #waiting > 0 then call('ZREM', WAITING, unpack(waiting)) end
  if #claimed > 0 then
    call('ZADD', LEASES, unpack(leases))
    try('ZADD', STARTED .. queue, unpack(started))
    local is_registered = count_for_worker(worker, 'running', #claimed)
    if is_registered then try('HSET', 'rq:worker:' .. worker, 'state', 'busy') end
  end
  count_durations('w:' .. queue, first_waits)
  return claimed
end
