-- What every transition shares; it is put in front of each script when they are loaded (see __init__.py).
--
-- The record of an execution is the hash of its RQ job. `status` in it is RQ's word for the state; the
-- index speaks the documented API's words. Times are whole microseconds of the store's own clock.
-- What is large stands in keys beside it: so the record stays in the store's compact form, and a status is
-- read without what was put in.

local LEASES  = 'exec:leases'   -- running: id -> when its lease runs out
local WAITING = 'exec:waiting'  -- pending: id -> when it expires, +inf where it never does
local DELAYED = 'exec:delayed'  -- the pending ones that are not in a queue yet: id -> when they are due
local ENDED   = 'exec:ended:'   -- .. status: id -> when it ended
local TOKEN   = 'exec:token'    -- the last fencing token that was given out
local REAPED  = 'exec:reaped'   -- when the last reap was
local WORKERS = 'exec:workers'  -- queue:name of each worker -> when it was last heard of
local SLOTS   = 'exec:slots'    -- a hash, by the same names: used/all slots
local COUNTS  = 'exec:metrics'  -- a hash of counters that only grow; app/executions/counters.py names its fields

local API_WORD = {queued = 'pending', started = 'running', finished = 'completed', failed = 'failed', canceled = 'cancelled'}
local RQ_WORD  = {pending = 'queued', running = 'started', completed = 'finished', failed = 'failed', cancelled = 'canceled'}

-- Upper bounds of the histograms' buckets, in milliseconds; the same as in counters.py.
local BOUNDS = {10, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 1800000, 7200000}

local FIELDS = {'status', 'tenant', 'type', 'target', 'created', 'origin', 'steps', 'attempt', 'token', 'worker', 'started',
                'cancel', 'lost', 'max_attempts', 'retried', 'expires', 'history', 'queued'}

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function whole(number)
  return string.format('%.0f', number)
end

-- A full store refuses a script's first write if that could take memory, but nothing after a write that
-- could not: a store must not refuse the scripts that end executions and so make room.
local function work_when_full()
  redis.call('ZREM', LEASES, '')
end

-- Counting never stops a transition: where the key holds something else, nothing is counted.
local function count(field, amount)
  redis.pcall('HINCRBY', COUNTS, field, amount or 1)
end

local function bucket(microseconds)
  for _, bound in ipairs(BOUNDS) do
    if microseconds <= bound * 1000 then return bound end
  end
  return 'inf'
end

-- Adds durations to a histogram: to their buckets, and to the sum.
local function count_durations(name, durations)
  local buckets, sum = {}, 0
  for _, each in ipairs(durations) do
    local place = name .. ':' .. bucket(each)
    buckets[place] = (buckets[place] or 0) + 1
    sum = sum + math.max(0, each)
  end
  for place, amount in pairs(buckets) do count(place, amount) end
  if #durations > 0 then count(name .. ':sum', whole(sum)) end
end

local function job_key(id) return 'rq:job:' .. id end
local function data_key(id) return 'rq:job:' .. id .. ':data' end        -- what was asked
local function outputs_key(id) return 'rq:job:' .. id .. ':outputs' end
local function steps_key(id) return 'rq:job:' .. id .. ':steps' end    -- see app/executions/steps.py
local function values_key(id) return 'rq:job:' .. id .. ':values' end
local function queue_key(queue) return 'rq:queue:' .. queue end

local function is_number(text)
  local number = tonumber(text)
  return number and number == number and math.abs(number) < 2 ^ 53
end

-- The record's fields that transitions look at; nil where there is no such record, or none that makes sense.
local function load(id)
  local values, record = redis.pcall('HMGET', job_key(id), unpack(FIELDS)), {id = id}
  if values.err then return nil end
  for i, name in ipairs(FIELDS) do record[name] = values[i] ~= '' and values[i] or nil end
  local sound = API_WORD[record.status] and record.tenant and record.type and record.target and record.origin and record.created
  for _, name in ipairs({'created', 'started', 'expires', 'steps', 'attempt', 'lost', 'max_attempts', 'retried', 'queued'}) do
    sound = sound and (not record[name] or is_number(record[name]))
  end
  for _, name in ipairs({'attempt', 'lost', 'max_attempts', 'retried'}) do record[name] = tonumber(record[name] or 0) end
  return sound and record or nil
end

-- Six memberships: (every status | its own) x (everything | its type | its target), scored by creation.
local function each_index(record, status, act)
  local prefix = 'exec:index:' .. record.tenant .. ':' .. status .. ':'
  for _, scope in ipairs({'all', record.type, record.type .. ':' .. record.target}) do act(prefix .. scope) end
end

local function index(record, status)
  each_index(record, status, function(key) redis.call('ZADD', key, record.created, record.id) end)
end

local function unindex(record, status)
  each_index(record, status, function(key) redis.call('ZREM', key, record.id) end)
end

local function set_status(record, status)
  unindex(record, API_WORD[record.status])
  index(record, status)
  redis.call('HSET', job_key(record.id), 'status', RQ_WORD[status])
end

-- What the run has used so far, over all attempts; '' where nothing changed.
local function note_usage(id, usage)
  if usage ~= '' then redis.call('HSET', job_key(id), 'usage', usage) end
end

-- Leaves every place where a living execution is held. What was `popped` is in no queue: it is not looked for.
local function let_go(record)
  redis.call('ZREM', LEASES, record.id)
  local waited, delayed = redis.call('ZREM', WAITING, record.id), redis.call('ZREM', DELAYED, record.id)
  if waited == 1 and delayed == 0 and not record.popped then redis.call('LREM', queue_key(record.origin), 1, record.id) end
  if delayed == 1 then redis.call('HDEL', job_key(record.id), 'due') end
end

-- What ran is counted with the time of its last attempt, what never ran (or waited for a retry) without.
local function count_end(record, status, at)
  local name = ':' .. record.type .. ':' .. record.target .. ':' .. status
  if record.started then count_durations('r' .. name, {at - record.started}) else count('x' .. name) end
end

-- The only way into a final state; callers have checked that the record is in none. It is let go at last: where
-- one of the calls is refused (somebody else's data is under a key, say), a lease still brings it to its end.
local function end_as(record, status, at, error)
  set_status(record, status)
  redis.call('HSET', job_key(record.id), 'ended', whole(at))
  if error then redis.call('HSET', job_key(record.id), 'error', error) end
  redis.call('ZADD', ENDED .. status, whole(at), record.id)
  let_go(record)
  count_end(record, status, at)
  redis.pcall('PUBLISH', 'exec:ended:' .. record.id, status)  -- see app/executions/ends.py
end

-- The error of a failure that the service itself noticed.
local function failure(record, type, message)
  return cjson.encode({type = type, message = message, details = {[record.type .. '_id'] = record.target}})
end

-- running -> pending: the attempt is over, the next one waits `delay` microseconds, or not at all.
-- `how` it ended is kept in the history of attempts, unless it is nil: then the attempt does not count.
local function requeue(record, at, delay, how, error_type)
  local key = job_key(record.id)
  if how then
    local entry = string.format('{"number":%d,"worker":%s,"started":%s,"ended":%s,"outcome":"%s","error":%s},', record.attempt,
      cjson.encode(record.worker or ''), record.started or '0', whole(at), how, cjson.encode(error_type or how))
    redis.call('HSET', key, 'history', (record.history or '') .. entry)
  else
    redis.call('HSET', key, 'attempt', record.attempt - 1)
  end
  redis.call('ZADD', WAITING, '+inf', record.id)  -- at first, and the lease ends at last: it is always held by one
  set_status(record, 'pending')
  redis.call('HSET', key, 'queued', whole(at + delay))
  redis.call('HDEL', key, 'token', 'worker', 'started', 'progress')
  if delay > 0 then
    redis.call('HSET', key, 'due', whole(at + delay))
    redis.call('ZADD', DELAYED, whole(at + delay), record.id)
  else
    redis.call('LPUSH', queue_key(record.origin), record.id)
  end
  redis.call('ZREM', LEASES, record.id)
end

-- The process that ran it is gone: the next attempt, unless a cancel was asked for or none is left.
-- The second attempt starts at once, later ones wait 1, 3, 7 ... 30 s, so that a poisonous execution
-- does not keep killing processes.
local function lose(record, at, reason)
  count('a:lost')
  if record.cancel then
    end_as(record, 'cancelled', at)
    return 'cancelled'
  end
  local lost = record.lost + 1
  redis.call('HSET', job_key(record.id), 'lost', lost)
  if lost >= record.max_attempts then
    local message = string.format('%s This happened %d times, which is config.max_attempts.', reason, lost)
    end_as(record, 'failed', at, failure(record, 'WorkerLost', message))
    return 'failed'
  end
  requeue(record, at, math.min(2 ^ (lost - 1) - 1, 30) * 1000000, 'lost', 'WorkerLost')
  return 'pending'
end

