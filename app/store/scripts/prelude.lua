-- Defines the keys, times and numbers that all functions of the library share.
-- `__init__.py` puts the files together. `call` fails if the store refuses a command; `try` returns
-- the error instead.
--
-- A library must not call anything while it is loaded, not even Lua's own functions. So the shared
-- files hold only constants and functions.

local call, try  -- `redis.call` and `redis.pcall`; set when a function of the library starts

local LEASES   = 'exec:leases'    -- running: id -> when its lease expires
local WAITING  = 'exec:waiting'   -- pending: id -> when it expires, +inf if it never does
local DELAYED  = 'exec:delayed'   -- pending, but not in a queue yet: id -> when it is due
local CLAIMS   = 'exec:claims'    -- a hash: worker -> the number of its last claim
local REAPED   = 'exec:reaped'    -- the time of the last reap
local WORKERS  = 'exec:workers'   -- queue:name of each worker -> the time of its last heartbeat
local SLOTS    = 'exec:slots'     -- a hash: queue:name -> used/all slots
local COUNTS   = 'exec:metrics'   -- a hash of counters; app/store/counters.py names its fields
local TROUBLES = 'exec:troubles'  -- a list of reports about executions and keys, to be logged

-- RQ's own keys, which RQ's tools read.
local RQ_QUEUES, RQ_WORKERS = 'rq:queues', 'rq:workers'
local REGISTRY = {completed = 'rq:finished:', failed = 'rq:failed:', cancelled = 'rq:canceled:'}
local STARTED, SCHEDULED = 'rq:wip:', 'rq:scheduled:'
local KNOWN_QUEUES = {threads = true, processes = true}

local API_WORD = {queued = 'pending', scheduled = 'pending', started = 'running',
                  finished = 'completed', failed = 'failed', canceled = 'cancelled'}
local RQ_WORD  = {pending = 'queued', running = 'started', completed = 'finished',
                  failed = 'failed', cancelled = 'canceled'}
local LIVING   = {pending = true, running = true}

-- Upper bounds of the histograms' buckets, in milliseconds; __init__.py fills in BOUNDS_MS.
local BOUNDS = {@bounds@}

-- The number of the store's format, and the one that this code knows: see app/store/store_format.py.
local FORMAT_VERSION, KNOWN_FORMAT = 'exec:format:version', @format@

local MAX_COUNT = 999999999
local LONGEST   = 3660 * 86400 * 1000000  -- ten years in microseconds: the longest time of any kind
local FOREVER   = 2 ^ 53 - 1              -- the largest integer up to which Lua's numbers are exact

local function job_key(id) return 'rq:job:' .. id end
local function data_key(id) return 'rq:job:' .. id .. ':data' end        -- the request
local function outputs_key(id) return 'rq:job:' .. id .. ':outputs' end
local function steps_key(id) return 'rq:job:' .. id .. ':steps' end      -- see app/store/steps.py
local function values_key(id) return 'rq:job:' .. id .. ':values' end
local function events_key(id) return 'rq:job:' .. id .. ':events' end    -- see events.lua
local function queue_key(queue) return 'rq:queue:' .. queue end

-- RQ's own clean-up removes entries of a registry whose score lies between 1970 and now. Our scores
-- are 317 years later, so it removes nothing: the reaper alone removes executions, by RETENTION.
local RQ_NEVER = 10000000000

local function rq_score(microseconds)
  return string.format('%.6f', microseconds / 1000000 + RQ_NEVER)
end

-- Only an unreadable record names another queue.
local function registry(state, origin)
  return REGISTRY[state] .. (KNOWN_QUEUES[origin] and origin or 'unknown')
end

-- Microseconds since 1970, by the store's clock. It stands still while a function runs.
local function now()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- As text. Lua's own conversion would write large numbers as `1e+15`.
local function integer(number)
  return string.format('%.0f', number)
end

-- RQ writes times as `2026-11-26T17:36:15.123456Z`. Most times of one call lie in a few seconds, so
-- the result for a second is cached.
local iso_second, iso_prefix = -1, ''
local seconds_of, seconds_known = {}, 0

-- Converts days since 1970 to a date. Years begin in March here, so that a leap day is the last
-- day.
local function date_of(days)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day = shifted - era * 146097
  local leap_days = math.floor(day / 1460) - math.floor(day / 36524) + math.floor(day / 146096)
  local year = math.floor((day - leap_days) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local of_month = of_year - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return year + era * 400 + (month <= 2 and 1 or 0), month, of_month
end

-- The inverse of `date_of`.
local function days_of(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5) + day - 1
  local leap_days = math.floor(of_era / 4) - math.floor(of_era / 100)
  return era * 146097 + of_era * 365 + leap_days + of_year - 719468
end

-- Microseconds since 1970 as RQ writes a time.
local function iso(microseconds)
  local second = math.floor(microseconds / 1000000)
  if second ~= iso_second then
    local days = math.floor(second / 86400)
    local rest, year, month, day = second - days * 86400, date_of(days)
    iso_prefix = string.format('%04d-%02d-%02dT%02d:%02d:%02d.', year, month, day,
      math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60)
    iso_second = second
  end
  return iso_prefix .. string.format('%06dZ', microseconds - second * 1000000)
end

-- Converts `2026-11-26T17:36:15` to seconds since 1970; nil if there is no such time.
local function seconds_until(second)
  local year, month, day, hour, minute, rest =
    string.match(second, '^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)$')
  if not year then return nil end
  if tonumber(hour) > 23 or tonumber(minute) > 59 or tonumber(rest) > 59 then return nil end
  local days = days_of(tonumber(year), tonumber(month), tonumber(day))
  local _, same_month, same_day = date_of(days)  -- differ for a day like February 30
  if same_month ~= tonumber(month) or same_day ~= tonumber(day) then return nil end
  return days * 86400 + hour * 3600 + minute * 60 + rest
end

-- The inverse of `iso`; nil if the text is not such a time.
local function microseconds(text)
  local second, fraction = string.match(text or '', '^(.+)%.(%d%d%d%d%d%d)Z$')
  if not second then return nil end
  local seconds = seconds_of[second]
  if not seconds then
    seconds = seconds_until(second)
    if not seconds or seconds < 0 or seconds > FOREVER / 1000000 - 1 then return nil end
    if seconds_known >= 1000 then seconds_of, seconds_known = {}, 0 end
    seconds_of[second], seconds_known = seconds, seconds_known + 1
  end
  return seconds * 1000000 + fraction
end

-- A caller's argument as an integer from `low` to `high`. Every function passes its numbers through
-- this first: infinite and huge ones become the bound, and a text that is not a number is refused
-- before anything is written.
local function bounded(text, low, high)
  local number = tonumber(text)
  if not number or number ~= number then error('ERR Not a number: ' .. tostring(text)) end
  return math.floor(math.max(low, math.min(high, number)))
end

-- Whether a stored text consists of digits, as the service writes its numbers, up to `limit`. Lua
-- would also accept '1e9', '0x10' and ' 1', which somebody else wrote.
local function is_integer(text, limit)
  return text ~= '' and not string.find(text, '%D') and #text <= 16 and tonumber(text) <= limit
end

-- Stops at the largest value that `is_integer` accepts for a counter.
local function one_more(counter) return math.min(counter + 1, MAX_COUNT) end

-- The reply to a command, or `default` if its key has the wrong type.
local function ask(default, ...)
  local answer = try(...)
  if type(answer) == 'table' and answer.err then return default end
  return answer
end

-- The stored number of the format; nil if there is none, or something else.
local function stored_format()
  local text = ask(false, 'GET', FORMAT_VERSION)
  return text and is_integer(text, MAX_COUNT) and tonumber(text) or nil
end

-- The error that every function returns if newer code has written to this store: older code would
-- take its records for unreadable, and end them. Returns nil otherwise.
local function refusal_of_format()
  local found = stored_format()
  if found and found > KNOWN_FORMAT then
    return {err = '@newer@ The store has format ' .. integer(found) .. '.'}
  end
end

-- Returns a function that is true until `seconds` have passed. (It cannot use `now`, which stands
-- still.) The store does nothing else while a function runs, so long work is cut into several
-- calls.
local function time_for(seconds)
  local stop = os.clock() + seconds
  return function() return os.clock() < stop end
end

-- Reports a problem; the next reaper of a web process logs it. The last hundred reports are kept.
local function report(what, id, reason)
  try('LPUSH', TROUBLES, cjson.encode({what = what, id = id, reason = reason}))
  try('LTRIM', TROUBLES, 0, 99)
end

-- Calls `act`, and reports an error in it: one execution, or one key of the wrong type, must not
-- stop the work for all others. Returns whether `act` succeeded, and its results.
local function dealt_with(what, id, act, ...)
  local done, answer, more = pcall(act, ...)
  if not done then
    report(what, id, type(answer) == 'table' and answer.err or tostring(answer))
  end
  return done, answer, more
end

-- Counting never stops a transition: if the key has the wrong type, nothing is counted.
local function count(field, amount)
  try('HINCRBY', COUNTS, field, amount or 1)
end

local function bucket(microseconds)
  for i = 1, #BOUNDS do
    if microseconds <= BOUNDS[i] * 1000 then return BOUNDS[i] end
  end
  return 'inf'
end

-- Adds durations (in microseconds) to the buckets and the sum of a histogram.
local function count_durations(name, durations)
  local buckets, sum = {}, 0
  for i = 1, #durations do
    local place = bucket(durations[i])
    buckets[place] = (buckets[place] or 0) + 1
    sum = sum + math.max(0, durations[i])
  end
  for place, amount in pairs(buckets) do count(name .. ':' .. place, amount) end
  if #durations > 0 then count(name .. ':sum', integer(sum)) end
end

-- RQ's keys of a worker (`queue:name`): its hash, the set of all workers, the set of its queue's.
local function rq_worker(worker)
  local queue, name = worker:match('^([^:]*):(.*)$')
  if name then return 'rq:worker:' .. name, RQ_WORKERS, RQ_WORKERS .. ':' .. queue end
end

-- Registers a worker with RQ again. It does so itself when it starts; each heartbeat repeats it, in
-- case the store lost it (by FLUSHALL, for example).
local function register(worker)
  local key, all, of_queue = rq_worker(worker)
  if key then
    try('SADD', all, key)
    try('SADD', of_queue, key)
    try('HSETNX', key, 'state', 'idle')
  end
end

-- Adds to a counter in RQ's hash of a worker, and returns the new value. Returns nil if the worker
-- is not registered: then its hash has expired, and must not come back without its other fields.
local function count_for_worker(name, field, amount)
  local key = 'rq:worker:' .. name
  local total = try('HINCRBY', key, field, amount)
  if total == amount and call('HEXISTS', key, 'last_heartbeat') == 0 then
    call('UNLINK', key)
    return nil
  end
  return type(total) == 'number' and total or nil
end
