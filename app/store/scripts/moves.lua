-- What transitions have in common: the lists that an execution is in, and the ways out of a state.

-- Two memberships: all of its status and type, and those of its target among them, scored by creation. `page` puts
-- lists together, so that there need not be one of every status, or of both types.
local function index_key(record, status) return 'exec:index:' .. record.tenant .. ':' .. status .. ':' .. record.type end

local function index(record, status)
  local key, created = index_key(record, status), whole(record.created)
  call('ZADD', key, created, record.id)
  call('ZADD', key .. ':' .. record.target, created, record.id)
end

local function unindex(record, status)
  local key = index_key(record, status)
  call('ZREM', key, record.id)
  call('ZREM', key .. ':' .. record.target, record.id)
end

local function move_index(record, status)
  unindex(record, record.state)
  index(record, status)
end

-- The attempt is over: for its lease, for RQ's registry (which names it `<job>:<attempt>`), and for what RQ knows of
-- its worker.
local function leave_running(record)
  call('ZREM', LEASES, record.id)
  if record.origin then try('ZREM', STARTED .. record.origin, record.id .. ':' .. (record.attempt or '')) end
  if record.worker_name then
    local running = count_for_worker(record.worker_name, 'running', -1)
    if running and running <= 0 then try('HSET', 'rq:worker:' .. record.worker_name, 'state', 'idle', 'running', 0) end
  end
end

-- It waits no longer. What was `popped` is in no queue: it is not looked for.
local function leave_waiting(record)
  local waited, delayed = call('ZREM', WAITING, record.id), call('ZREM', DELAYED, record.id)
  if delayed == 1 then try('ZREM', SCHEDULED .. record.origin, record.id) end
  if waited == 1 and delayed == 0 and not record.popped then call('LREM', queue_key(record.origin), 1, record.id) end
end

-- What ran is counted with the time of its last attempt, what never ran (or waited for a retry) without.
local function count_end(record, state, at)
  local name = ':' .. record.type .. ':' .. record.target .. ':' .. state
  if record.started then count_durations('r' .. name, {at - record.started}) else count('x' .. name) end
end

-- The only way into a final state; callers have checked that the record is in none. The lease is removed last: if one
-- of the calls is refused (somebody else's data is under a key, say), it expires and the reaper tries again.
-- And RQ's registry of what has ended comes first: by it the record leaves after its retention, whatever is refused
-- after that. `more` are further fields and values.
local function end_as(record, state, at, more)
  call('ZADD', registry(state, record.origin), rq_score(at), record.id)
  move_index(record, state)
  local progress
  if state == 'completed' then progress = '[' .. (record.steps or 1) .. ',' .. (record.steps or 1) .. ',null]' end
  call('HSET', job_key(record.id), 'status', RQ_WORD[state], 'meta', meta(state, progress), 'ended_at', iso(at), unpack(more or {}))
  call('HDEL', job_key(record.id), 'request_id', 'max_attempts', 'reported', 'saved', 'expires')  -- of the living
  if record.state == 'running' then
    leave_running(record)
    if record.worker_name and state ~= 'cancelled' then
      count_for_worker(record.worker_name, state == 'completed' and 'successful_job_count' or 'failed_job_count', 1)
    end
  else
    leave_waiting(record)
  end
  count_end(record, state, at)
  try('PUBLISH', 'exec:ended:' .. record.id, state)  -- see app/store/ends.py
end

-- The error of a failure that the service itself noticed, as a field and its value.
local function failure(record, type, message)
  return {'error', cjson.encode({type = type, message = message, details = {[record.type .. '_id'] = record.target}})}
end

-- A record that makes no sense, and cannot be run or shown as it is: it ends as `failed`, whatever it was. Fields that are
-- needed get a value that makes sense, the others go.
function quarantine(record, found)
  local at, key, ran = now(), job_key(record.id), record.status == 'started'
  for _, name in ipairs(found) do
    record[name] = nil
    call('HDEL', key, name)
  end
  record.type, record.target = record.type or 'agent', record.target or 'unknown'
  record.origin = record.origin or 'unknown'
  record.created, record.started = microseconds(record.created_at) or at, microseconds(record.started_at)
  call('HSET', key, 'type', record.type, 'target', record.target, 'origin', record.origin, 'data', CALL,
    'created_at', iso(record.created), 'enqueued_at', record.enqueued_at or iso(record.created))
  for state in pairs(RQ_WORD) do
    unindex(record, state)
    if REGISTRY[state] then try('ZREM', registry(state, record.origin), record.id) end
  end
  index(record, 'pending')
  record.state, record.popped = 'pending', true  -- a claim drops what is left of it in a queue
  local message = 'Its record in the store makes no sense: ' .. table.concat(found, ', ') .. '.'
  end_as(record, 'failed', at, failure(record, 'RecordUnreadable', message))
  if ran then leave_running(record) else call('ZREM', LEASES, record.id) end
  count('u:unreadable')
  report('record_unreadable', record.id, message)
end

-- running -> pending: the attempt is over, the next one waits `delay` microseconds, or not at all.
-- `how` it ended is kept in the history of attempts, unless it is nil: then the attempt does not count.
-- Whatever the store may refuse because of somebody else's data comes before the record is changed: repeated, it does the
-- same again, and no attempt is counted twice.
local function requeue(record, at, delay, how, error_type)
  local key, due = job_key(record.id), at + delay
  call('ZADD', WAITING, '+inf', record.id)  -- first, and the lease is removed last: it is always in one of the two
  if delay > 0 then
    call('ZADD', DELAYED, whole(due), record.id)
    try('ZADD', SCHEDULED .. record.origin, string.format('%.6f', due / 1000000), record.id)
  end
  move_index(record, 'pending')
  local fields = {'status', delay > 0 and 'scheduled' or 'queued', 'meta', meta('pending'), 'enqueued_at', iso(due),
                  'lost', record.lost, 'retried', record.retried}
  if how then
    local entry = string.format('{"number":%d,"worker":%s,"started":%s,"ended":%s,"outcome":"%s","error":%s},', record.attempt,
      cjson.encode(record.worker_name or ''), whole(record.started), whole(at), how, cjson.encode(error_type or how))
    fields[11], fields[12] = 'history', (call('HGET', key, 'history') or '') .. entry
  else
    fields[11], fields[12] = 'attempt', math.max(0, record.attempt - 1)
  end
  call('HSET', key, unpack(fields))
  call('HDEL', key, 'token', 'worker_name', 'started_at', 'reported', 'saved')
  if delay == 0 then call('LPUSH', queue_key(record.origin), record.id) end
  leave_running(record)
end

-- `deaths` counts how often an execution was in a process or a worker that died or hung with others in it. From
-- `ALONE` on it runs in a process of its own; from `SOLE` on its worker runs no other one of those meanwhile.
local ALONE, SOLE = 2, 3

-- The process that ran it is gone: the next attempt, unless a cancel was asked for or none is left.
-- The second attempt starts at once, later ones wait 1, 3, 7 ... 30 s, so that a poisonous execution
-- does not keep killing processes. `usage` is what the run has used so far: a field and its value, or nothing.
local function lose(record, at, reason, usage)
  usage = usage or {}
  if record.cancel then
    end_as(record, 'cancelled', at, usage)
    count('a:lost')
    return 'cancelled'
  end
  record.lost = one_more(record.lost)
  if record.lost >= record.max_attempts then
    local message = string.format('%s This happened %d times, which is config.max_attempts.', reason, record.lost)
    if record.deaths >= ALONE then
      message = message .. ' It ran alone, because a process or worker that it shared with others had died or hung before.'
    end
    local more = failure(record, 'WorkerLost', message)
    end_as(record, 'failed', at, {'lost', record.lost, more[1], more[2], usage[1], usage[2]})
    count('a:lost')
    return 'failed'
  end
  if usage[1] then call('HSET', job_key(record.id), unpack(usage)) end
  requeue(record, at, math.min(2 ^ (record.lost - 1) - 1, 30) * 1000000, 'lost', 'WorkerLost')
  count('a:lost')
  return 'pending'
end

-- The same if others were lost with it, and nobody knows which of them was the cause: noted, but not counted against
-- `max_attempts`. If it is lost again while it runs alone, it was the cause itself.
local function lose_with_others(record, at, reason, usage, is_suspect)
  if record.cancel or record.deaths >= SOLE then return lose(record, at, reason, usage) end
  if usage[1] then call('HSET', job_key(record.id), unpack(usage)) end
  requeue(record, at, (2 ^ record.deaths - 1) * 1000000, 'lost', 'WorkerLost')
  call('HSET', job_key(record.id), 'deaths', math.max(record.deaths + 1, is_suspect and ALONE or 0))
  count('a:lost')
  return 'pending'
end
