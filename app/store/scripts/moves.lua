-- Moves an execution from one state to another: its lists, its index entries, and its record.
-- The transitions (claim, finish, release, cancel, reap) call these functions after `load`.

-- An execution is in two index lists: one of its status and type, and one of its status, type and
-- target. The score is the time of creation. `page` merges lists, so there is no list of all
-- statuses or of both types.
local function index_key(record, status)
  return 'exec:index:' .. record.tenant .. ':' .. status .. ':' .. record.type
end

local function index(record, status)
  local key, created = index_key(record, status), integer(record.created)
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

-- Ends the attempt: removes its lease and its entry `<job>:<attempt>` in RQ's registry, and counts
-- it off RQ's hash of the worker.
local function leave_running(record)
  call('ZREM', LEASES, record.id)
  if record.origin then
    try('ZREM', STARTED .. record.origin, record.id .. ':' .. (record.attempt or ''))
  end
  if record.worker_name then
    local running = count_for_worker(record.worker_name, 'running', -1)
    if running and running <= 0 then
      try('HSET', 'rq:worker:' .. record.worker_name, 'state', 'idle', 'running', 0)
    end
  end
end

-- Removes it from the waiting ones. A `popped` one is in no queue, which saves searching for it.
local function leave_waiting(record)
  local waited, delayed = call('ZREM', WAITING, record.id), call('ZREM', DELAYED, record.id)
  if delayed == 1 then try('ZREM', SCHEDULED .. record.origin, record.id) end
  if waited == 1 and delayed == 0 and not record.popped then
    call('LREM', queue_key(record.origin), 1, record.id)
  end
end

-- Counts an end with the duration of the last attempt; without one if it did not run, or waited for
-- a retry.
local function count_end(record, state, at)
  local name = ':' .. record.type .. ':' .. record.target .. ':' .. state
  if record.started then
    count_durations('r' .. name, {at - record.started})
  else
    count('x' .. name)
  end
end

-- The value of a field in a list of fields and values; nil if it is not there.
local function value_of(name, fields)
  for i = 1, #(fields or {}), 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

-- The only way into a final state; the caller has checked that the record is in none. `more` are
-- further fields and values.
-- RQ's registry comes first: it makes the record leave after its retention, even if a later call
-- fails. The lease is removed last: if a call above fails (for example because a key has the wrong
-- type), the lease expires and the reaper finishes the execution.
local function end_as(record, state, at, more)
  local key, completed = job_key(record.id), state == 'completed'
  call('ZADD', registry(state, record.origin), rq_score(at), record.id)
  move_index(record, state)
  local progress = completed and all_done(record) or last_progress(record)
  local version = tell(record, at, state, error_data(value_of('error', more)))
  call('HSET', key, 'status', RQ_WORD[state], 'meta', meta(state, progress), 'ended_at', iso(at),
    'version', version, unpack(more or {}))
  -- Only a living execution needs these.
  call('HDEL', key, 'request_id', 'max_attempts', 'reported', 'saved', 'expires')
  if version > 3 or record.has_list then call('HDEL', key, 'told') end
  if record.state == 'running' then
    leave_running(record)
    if record.worker_name and state ~= 'cancelled' then
      local counter = completed and 'successful_job_count' or 'failed_job_count'
      count_for_worker(record.worker_name, counter, 1)
    end
  else
    leave_waiting(record)
  end
  count_end(record, state, at)
end

-- The error of a failure that the service itself noticed, as a field and its value.
local function failure(record, type, message)
  local details = {[record.type .. '_id'] = record.target}
  return {'error', cjson.encode({type = type, message = message, details = details})}
end

local function expired(record)
  return failure(record, 'Expired', 'It was not started within its expires_in.')
end

-- Ends an execution with an unreadable record as `failed`, whatever its state was. `found` are the
-- unreadable fields: needed ones get a default, the others are deleted.
function quarantine(record, found)
  local at, key, ran = now(), job_key(record.id), record.status == 'started'
  for _, name in ipairs(found) do
    record[name] = nil
    call('HDEL', key, name)
  end
  record.version = version_of(record)
  if REGISTRY[record.state] and record.version <= 3 then make_list(record) end
  record.type, record.target = record.type or 'agent', record.target or 'unknown'
  record.origin = record.origin or 'unknown'
  record.created = microseconds(record.created_at) or at
  record.started = microseconds(record.started_at)
  call('HSET', key, 'type', record.type, 'target', record.target, 'origin', record.origin,
    'data', CALL, 'created_at', iso(record.created),
    'enqueued_at', record.enqueued_at or iso(record.created))
  -- Nobody knows which state it was in, so it leaves the lists of all of them, and takes the usual
  -- way from `pending` to `failed`.
  for state in pairs(RQ_WORD) do
    unindex(record, state)
    if REGISTRY[state] then try('ZREM', registry(state, record.origin), record.id) end
  end
  index(record, 'pending')
  record.state = 'pending'
  record.popped = true  -- a claim drops an entry that is left in a queue
  local names = table.concat(found, ', ')
  local message = 'Its record in the store has unreadable fields: ' .. names .. '.'
  end_as(record, 'failed', at, failure(record, 'RecordUnreadable', message))
  if ran then leave_running(record) else call('ZREM', LEASES, record.id) end
  count('u:unreadable')
  report('record_unreadable', record.id, message)
end

-- The data of `retrying`: the attempt that has ended, how, and when the next one is due if there is a
-- delay. Written by hand: cjson would write a large time as `1.7e+15`.
local function retrying_data(record, how, error_type, due)
  local form = '{"attempt":%d,"outcome":"%s","error":%s,"due":%s}'
  local error = error_type and cjson.encode(error_type) or 'null'
  return string.format(form, record.attempt, how or 'released', error, due and integer(due) or 'null')
end

-- running -> pending: ends the attempt; the next one may start after `delay` microseconds.
-- `how` it ended goes into the history of attempts. If `how` is nil, the attempt does not count.
-- Calls that may fail because of a key of the wrong type come before the record is changed:
-- repeated, they do the same again, and no attempt is counted twice.
local function requeue(record, at, delay, how, error_type)
  local key, due = job_key(record.id), at + delay
  -- Added first; the lease is removed last, so the execution is always in at least one set.
  call('ZADD', WAITING, '+inf', record.id)
  if delay > 0 then
    call('ZADD', DELAYED, integer(due), record.id)
    try('ZADD', SCHEDULED .. record.origin, string.format('%.6f', due / 1000000), record.id)
  end
  move_index(record, 'pending')
  local version = tell(record, at, 'retrying', retrying_data(record, how, error_type, delay > 0 and due))
  local fields = {'status', delay > 0 and 'scheduled' or 'queued', 'meta', meta('pending'),
                  'enqueued_at', iso(due), 'lost', record.lost, 'retried', record.retried,
                  'version', version}
  if how then
    local form = '{"number":%d,"worker":%s,"started":%s,"ended":%s,"outcome":"%s","error":%s},'
    local entry = string.format(form, record.attempt, cjson.encode(record.worker_name or ''),
      integer(record.started), integer(at), how, cjson.encode(error_type or how))
    fields[13], fields[14] = 'history', (call('HGET', key, 'history') or '') .. entry
  else
    fields[13], fields[14] = 'attempt', math.max(0, record.attempt - 1)
  end
  call('HSET', key, unpack(fields))
  call('HDEL', key, 'token', 'worker_name', 'started_at', 'reported', 'saved')
  if delay == 0 then call('LPUSH', queue_key(record.origin), record.id) end
  leave_running(record)
end

-- `deaths` counts how often a process or worker died or got stuck while it ran this execution and
-- others. From `ALONE` on it runs in a process of its own; from `SOLE` on its worker runs no second
-- one of these at the same time.
local ALONE, SOLE = 2, 3

-- For an execution whose process is gone: prepares the next attempt, unless a cancel was requested
-- or no attempt is left. Returns the new status. The second attempt starts at once, later ones wait
-- 1, 3, 7 ... 30 s, so that an execution that kills its process does not do so all the time.
-- `usage` is {'usage', JSON}, or empty.
local function lose(record, at, reason, usage)
  usage = usage or {}
  if record.cancel then
    end_as(record, 'cancelled', at, usage)
    count('a:lost')
    return 'cancelled'
  end
  record.lost = one_more(record.lost)
  if record.lost >= record.max_attempts then
    local form = '%s This happened %d times, which is config.max_attempts.'
    local message = string.format(form, reason, record.lost)
    if record.deaths >= ALONE then
      message = message .. ' It ran alone, because a process or worker that it shared with others'
        .. ' had died or hung before.'
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

-- Like `lose`, if others were lost at the same time and any of them may be the cause: it is noted,
-- but does not count against `max_attempts`. If it is lost again while it runs alone, it was the
-- cause itself.
local function lose_with_others(record, at, reason, usage, is_suspect)
  if record.cancel or record.deaths >= SOLE then return lose(record, at, reason, usage) end
  if usage[1] then call('HSET', job_key(record.id), unpack(usage)) end
  requeue(record, at, (2 ^ record.deaths - 1) * 1000000, 'lost', 'WorkerLost')
  call('HSET', job_key(record.id), 'deaths', math.max(record.deaths + 1, is_suspect and ALONE or 0))
  count('a:lost')
  return 'pending'
end
