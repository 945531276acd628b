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
local CLAIMS  = 'exec:claims'   -- a hash, by worker: the number of its last claim
local REAPED  = 'exec:reaped'   -- when the last reap was
local WORKERS = 'exec:workers'  -- queue:name of each worker -> when it was last heard of
local SLOTS   = 'exec:slots'    -- a hash, by the same names: used/all slots
local COUNTS  = 'exec:metrics'  -- a hash of counters that only grow; app/executions/counters.py names its fields
local TROUBLES = 'exec:troubles'  -- a list of what went wrong with single executions and keys, for the log

local API_WORD = {queued = 'pending', started = 'running', finished = 'completed', failed = 'failed', canceled = 'cancelled'}
local RQ_WORD  = {pending = 'queued', running = 'started', completed = 'finished', failed = 'failed', cancelled = 'canceled'}

-- Upper bounds of the histograms' buckets, in milliseconds; the same as in counters.py.
local BOUNDS = {10, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 1800000, 7200000}

local FIELDS = {'status', 'tenant', 'type', 'target', 'created', 'origin', 'steps', 'attempt', 'token', 'worker', 'started',
                'cancel', 'lost', 'max_attempts', 'retried', 'expires', 'history', 'queued', 'ended', 'due',
                'timeout_seconds', 'retries', 'deaths'}
local TIMES    = {'created', 'started', 'ended', 'expires', 'queued', 'due'}
local COUNTERS = {'steps', 'attempt', 'lost', 'max_attempts', 'retried', 'deaths'}
-- Of what has ended, only what is still shown has to make sense: the rest harms nobody any more.
local SHOWN_TIMES    = {'created', 'started', 'ended'}
local SHOWN_COUNTERS = {'steps', 'attempt'}

local MAX_COUNT = 999999999
local LONGEST   = 3660 * 86400 * 1000000  -- ten years, in microseconds: no lease, delay or retention is longer
local FOREVER   = 2 ^ 53 - 1              -- the last whole number that Lua holds exactly

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function whole(number)
  return string.format('%.0f', number)
end

-- A number that a caller gave (`text`), as a whole one from `low` to `high`. No script uses one before this: infinite
-- and huge ones become the bound, and what is no number at all is refused before anything is written.
local function bounded(text, low, high)
  local number = tonumber(text)
  if not number or number ~= number then error('ERR Not a number: ' .. tostring(text)) end
  return math.floor(math.max(low, math.min(high, number)))
end

-- The answer of a command, or `default` where its key holds somebody else's data.
local function ask(default, ...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then return default end
  return answer
end

-- Whether there is time left: a function that says so until `seconds` of the store's time are used. (TIME stands still
-- while a script runs.) A script that holds the store for longer holds up every call of everybody.
local function time_for(seconds)
  local stop = os.clock() + seconds
  return function() return os.clock() < stop end
end

-- Notes what went wrong, for the next reaper on the web side to log. The last hundred are kept.
local function report(what, id, reason)
  redis.pcall('LPUSH', TROUBLES, cjson.encode({what = what, id = id, reason = reason}))
  redis.pcall('LTRIM', TROUBLES, 0, 99)
end

-- Calls `act`, and reports what the store refuses in it: one execution, or one key with somebody else's data under it,
-- must not stop what is done for the others. Answers whether it was done, and what `act` answers.
local function dealt_with(what, id, act, ...)
  local done, answer = pcall(act, ...)
  if not done then report(what, id, type(answer) == 'table' and answer.err or tostring(answer)) end
  return done, answer
end

-- A full store refuses a script's first write if that could take memory, but nothing after a write that
-- could not: a store must not refuse the scripts that end executions and so make room. Nothing is ever kept under this
-- key, and deleting does not care what is.
local function work_when_full()
  redis.call('DEL', 'exec:nothing')
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
-- What RQ's tools know of a worker (`queue:name`): the key of its hash, and the sets that name it.
local function rq_worker(worker)
  local queue, name = worker:match('^([^:]*):(.*)$')
  if name then return 'rq:worker:' .. name, 'rq:workers', 'rq:workers:' .. queue end
end

-- A worker is registered with RQ as it starts; where that was lost (FLUSHALL, say), it is again with its next beat.
local function register(worker)
  local key, all, of_queue = rq_worker(worker)
  if key then
    redis.pcall('SADD', all, key)
    redis.pcall('SADD', of_queue, key)
  end
end

local function data_key(id) return 'rq:job:' .. id .. ':data' end        -- what was asked
local function outputs_key(id) return 'rq:job:' .. id .. ':outputs' end
local function steps_key(id) return 'rq:job:' .. id .. ':steps' end    -- see app/executions/steps.py
local function values_key(id) return 'rq:job:' .. id .. ':values' end
local function queue_key(queue) return 'rq:queue:' .. queue end

-- Digits and nothing else, as the service writes its numbers: '1e9', '0x10' and ' 1' are somebody else's.
local function is_whole(text, limit)
  return text ~= '' and not string.find(text, '%D') and #text <= 16 and tonumber(text) <= limit
end

local function is_seconds(text)
  local number = text:match('^[%d.eE+-]+$') and tonumber(text)
  return number and number > 0 and number < FOREVER
end

local function is_list_of_numbers(text)
  local read, list = pcall(cjson.decode, text)
  if not read or type(list) ~= 'table' or #list == 0 then return false end
  for _, number in ipairs(list) do
    if type(number) ~= 'number' or number < 0 or number > FOREVER then return false end
  end
  return true
end

-- The names of a record's fields whose values make no sense. Each transition and each row of a page comes by here.
local function flaws(record)
  local found, status = {}, record.status
  local ended = status ~= 'queued' and status ~= 'started'
  if not API_WORD[status] then found[#found + 1] = 'status' end
  if record.type ~= 'agent' and record.type ~= 'pipeline' then found[#found + 1] = 'type' end
  if not record.target then found[#found + 1] = 'target' end
  if not record.origin and not ended then found[#found + 1] = 'origin' end
  if not record.created then found[#found + 1] = 'created' end
  if not record.started and status == 'started' then found[#found + 1] = 'started' end
  if not record.ended and ended then found[#found + 1] = 'ended' end
  if not ended and not is_seconds(record.timeout_seconds or '') then found[#found + 1] = 'timeout_seconds' end
  if record.retries and not ended and not is_list_of_numbers(record.retries) then found[#found + 1] = 'retries' end
  local times, counters = ended and SHOWN_TIMES or TIMES, ended and SHOWN_COUNTERS or COUNTERS
  for i = 1, #times do
    local time = record[times[i]]
    if time and not is_whole(time, FOREVER) then found[#found + 1] = times[i] end
  end
  for i = 1, #counters do
    local counter = record[counters[i]]
    if counter and not is_whole(counter, MAX_COUNT) then found[#found + 1] = counters[i] end
  end
  return found
end

local quarantine  -- below, with the other ends
local quarantined = 0

-- The fields `names` of a record that are there; nil where no tenant has such an execution.
local function fields_of(id, names)
  local values, record = redis.pcall('HMGET', job_key(id), unpack(names)), {id = id}
  if values.err then return nil end
  for i = 1, #names do
    if values[i] and values[i] ~= '' then record[names[i]] = values[i] end
  end
  return record.tenant and record or nil
end

-- The same, with the fields that transitions look at among them. A record that makes no sense is quarantined first, so
-- that every script, and whoever reads, finds the same: an execution that failed.
local function sound(id, names)
  local record = fields_of(id, names)
  local found = record and flaws(record) or {}
  if #found == 0 then return record end
  quarantine(record, found)
  return fields_of(id, names)
end

-- What transitions look at, with its counters as numbers; nil where no tenant has such an execution.
local function load(id)
  local record = sound(id, FIELDS)
  if not record then return nil end
  record.attempt, record.lost = tonumber(record.attempt or 0), tonumber(record.lost or 0)
  record.max_attempts, record.retried = tonumber(record.max_attempts or 0), tonumber(record.retried or 0)
  record.deaths = tonumber(record.deaths or 0)
  return record
end

-- For whoever only reads: a function that answers the values of the fields `asked`, false where one is not there, and none
-- where no tenant has such an execution. Where the store refuses to quarantine (it is read-only, say), as they are.
local function reader(asked)
  local names, known = {unpack(FIELDS)}, {}
  for _, name in ipairs(FIELDS) do known[name] = true end
  for _, name in ipairs(asked) do
    if not known[name] then names[#names + 1] = name end
  end
  return function(id)
    local done, record = dealt_with('record_unreadable', id, sound, id, names)
    if not done then record = fields_of(id, names) end
    local values = {}
    for i = 1, record and #asked or 0 do values[i] = record[asked[i]] or false end
    return values
  end
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

local function one_more(counter) return math.min(counter + 1, MAX_COUNT) end

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
-- one of the calls is refused (somebody else's data is under a key, say), a lease still brings it to its end. And it is
-- noted for its retention at first: what has ended leaves the store, whatever is refused after that.
local function end_as(record, status, at, error)
  redis.call('ZADD', ENDED .. status, whole(at), record.id)
  set_status(record, status)
  redis.call('HSET', job_key(record.id), 'ended', whole(at))
  if error then redis.call('HSET', job_key(record.id), 'error', error) end
  let_go(record)
  count_end(record, status, at)
  redis.pcall('PUBLISH', 'exec:ended:' .. record.id, status)  -- see app/executions/ends.py
end

-- The error of a failure that the service itself noticed.
local function failure(record, type, message)
  return cjson.encode({type = type, message = message, details = {[record.type .. '_id'] = record.target}})
end

-- A record that makes no sense, and cannot be run or shown as it is: it ends as `failed`, whatever it was. Fields that are
-- needed get a value that makes sense, the others go.
function quarantine(record, found)
  work_when_full()
  local at, key = now(), job_key(record.id)
  for _, name in ipairs(found) do record[name] = nil end
  record.type, record.target, record.origin = record.type or 'agent', record.target or 'unknown', record.origin or 'unknown'
  record.created = record.created or whole(at)
  for status in pairs(RQ_WORD) do unindex(record, status) end
  index(record, 'all')
  for _, name in ipairs(found) do redis.call('HDEL', key, name) end
  redis.call('HSET', key, 'type', record.type, 'target', record.target, 'origin', record.origin, 'created', record.created)
  record.status, record.popped, record.ended = 'failed', true, whole(at)  -- a claim drops what is left of it in a queue
  local message = 'Its record in the store makes no sense: ' .. table.concat(found, ', ') .. '.'
  end_as(record, 'failed', at, failure(record, 'RecordUnreadable', message))
  quarantined = quarantined + 1
  count('u:unreadable')
  report('record_unreadable', record.id, message)
end

-- running -> pending: the attempt is over, the next one waits `delay` microseconds, or not at all.
-- `how` it ended is kept in the history of attempts, unless it is nil: then the attempt does not count.
-- Whatever the store may refuse because of somebody else's data comes before the record is changed: repeated, it does the
-- same again, and no attempt is counted twice.
local function requeue(record, at, delay, how, error_type)
  local key, due = job_key(record.id), whole(at + delay)
  redis.call('ZADD', WAITING, '+inf', record.id)  -- at first, and the lease ends at last: it is always held by one
  if delay > 0 then redis.call('ZADD', DELAYED, due, record.id) end
  set_status(record, 'pending')
  if how then
    local entry = string.format('{"number":%d,"worker":%s,"started":%s,"ended":%s,"outcome":"%s","error":%s},', record.attempt,
      cjson.encode(record.worker or ''), record.started or '0', whole(at), how, cjson.encode(error_type or how))
    redis.call('HSET', key, 'history', (record.history or '') .. entry)
  else
    redis.call('HSET', key, 'attempt', math.max(0, record.attempt - 1))
  end
  redis.call('HSET', key, 'queued', due, 'lost', record.lost, 'retried', record.retried)
  redis.call('HDEL', key, 'token', 'worker', 'started', 'progress', 'reported', 'saved')
  if delay > 0 then
    redis.call('HSET', key, 'due', due)
  else
    redis.call('LPUSH', queue_key(record.origin), record.id)
  end
  redis.call('ZREM', LEASES, record.id)
end

-- `deaths` counts how often an execution was in a process or a worker that died or hung with others in it. From `ALONE` on
-- it gets a process of its own, from `SOLE` on its worker runs no other one of those meanwhile.
local ALONE, SOLE = 2, 3

-- The process that ran it is gone: the next attempt, unless a cancel was asked for or none is left.
-- The second attempt starts at once, later ones wait 1, 3, 7 ... 30 s, so that a poisonous execution
-- does not keep killing processes.
local function lose(record, at, reason)
  if record.cancel then
    end_as(record, 'cancelled', at)
    count('a:lost')
    return 'cancelled'
  end
  record.lost = one_more(record.lost)
  if record.lost >= record.max_attempts then
    local message = string.format('%s This happened %d times, which is config.max_attempts.', reason, record.lost)
    if record.deaths >= ALONE then
      message = message .. ' It was run alone, because what it ran in beside others had died or hung before.'
    end
    end_as(record, 'failed', at, failure(record, 'WorkerLost', message))
    redis.call('HSET', job_key(record.id), 'lost', record.lost)
    count('a:lost')
    return 'failed'
  end
  requeue(record, at, math.min(2 ^ (record.lost - 1) - 1, 30) * 1000000, 'lost', 'WorkerLost')
  count('a:lost')
  return 'pending'
end

-- The same where others are gone with it, and nobody knows which of them is to blame: noted, but not counted against
-- `max_attempts`. If that happens to it alone, it is its own fault.
local function lose_with_others(record, at, reason, is_suspect)
  if record.cancel or record.deaths >= SOLE then return lose(record, at, reason) end
  local deaths = math.max(record.deaths + 1, is_suspect and ALONE or 0)
  requeue(record, at, (2 ^ record.deaths - 1) * 1000000, 'lost', 'WorkerLost')
  redis.call('HSET', job_key(record.id), 'deaths', deaths)
  count('a:lost')
  return 'pending'
end
