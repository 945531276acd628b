-- The keys, times and numbers that all functions of the library share. The files are put together in __init__.py.
--
-- While a library is loaded, nothing may be called, not even a function of Lua's own: here stand constants and
-- functions alone.

local call, try  -- `redis.call` and `redis.pcall`; set as each function begins

local LEASES   = 'exec:leases'    -- running: id -> when its lease runs out
local WAITING  = 'exec:waiting'   -- pending: id -> when it expires, +inf if it never does
local DELAYED  = 'exec:delayed'   -- the pending ones that are not in a queue yet: id -> when they are due
local CLAIMS   = 'exec:claims'    -- a hash, by worker: the number of its last claim
local REAPED   = 'exec:reaped'    -- when the last reap was
local WORKERS  = 'exec:workers'   -- queue:name of each worker -> when it was last heard of
local SLOTS    = 'exec:slots'     -- a hash, by the same names: used/all slots
local COUNTS   = 'exec:metrics'   -- a hash of counters that only grow; app/store/counters.py names its fields
local TROUBLES = 'exec:troubles'  -- a list of what went wrong with single executions and keys, for the log

-- RQ's own keys, which its tools read.
local RQ_QUEUES, RQ_WORKERS = 'rq:queues', 'rq:workers'
local REGISTRY = {completed = 'rq:finished:', failed = 'rq:failed:', cancelled = 'rq:canceled:'}
local STARTED, SCHEDULED = 'rq:wip:', 'rq:scheduled:'
local KNOWN_QUEUES = {threads = true, processes = true}

local API_WORD = {queued = 'pending', scheduled = 'pending', started = 'running', finished = 'completed',
                  failed = 'failed', canceled = 'cancelled'}
local RQ_WORD  = {pending = 'queued', running = 'started', completed = 'finished', failed = 'failed',
                  cancelled = 'canceled'}
local LIVING   = {pending = true, running = true}

-- Upper bounds of the histograms' buckets, in milliseconds; the same as in counters.py.
local BOUNDS = {10, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 1800000, 7200000}

local MAX_COUNT = 999999999
local LONGEST   = 3660 * 86400 * 1000000  -- ten years, in microseconds: no lease, delay or retention is longer
local FOREVER   = 2 ^ 53 - 1              -- the last whole number that Lua holds exactly

local function job_key(id) return 'rq:job:' .. id end
local function data_key(id) return 'rq:job:' .. id .. ':data' end        -- what was asked
local function outputs_key(id) return 'rq:job:' .. id .. ':outputs' end
local function steps_key(id) return 'rq:job:' .. id .. ':steps' end      -- see app/store/steps.py
local function values_key(id) return 'rq:job:' .. id .. ':values' end
local function queue_key(queue) return 'rq:queue:' .. queue end

-- RQ's clean-up removes what has a time from 1970 until now. Ours are 317 years later, so it removes nothing, and the
-- reaper alone decides by RETENTION when something leaves.
local RQ_NEVER = 10000000000

local function rq_score(microseconds) return string.format('%.6f', microseconds / 1000000 + RQ_NEVER) end

-- A queue that nobody knows is only in records that make no sense.
local function registry(state, origin) return REGISTRY[state] .. (KNOWN_QUEUES[origin] and origin or 'unknown') end

local function now()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function whole(number)
  return string.format('%.0f', number)
end

-- RQ writes times as `2026-11-26T17:36:15.123456Z`. Most of those that meet here lie in few different seconds, so what
-- was worked out for a second is kept.
local iso_second, iso_prefix = -1, ''
local seconds_of, seconds_known = {}, 0

-- Days since 1970 to a date, and back, in the calendar that begins with March (so that February's end is a year's end).
local function date_of(days)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day = shifted - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local of_month = of_year - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return year + era * 400 + (month <= 2 and 1 or 0), month, of_month
end

local function days_of(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

local function iso(microseconds)
  local second = math.floor(microseconds / 1000000)
  if second ~= iso_second then
    local days = math.floor(second / 86400)
    local rest, year, month, day = second - days * 86400, date_of(days)
    iso_prefix = string.format('%04d-%02d-%02dT%02d:%02d:%02d.', year, month, day, math.floor(rest / 3600),
      math.floor(rest / 60) % 60, rest % 60)
    iso_second = second
  end
  return iso_prefix .. string.format('%06dZ', microseconds - second * 1000000)
end

-- The seconds since 1970 until a second; nil if there is no such second.
local function seconds_until(second)
  local year, month, day, hour, minute, rest = string.match(second, '^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)$')
  if not year or tonumber(hour) > 23 or tonumber(minute) > 59 or tonumber(rest) > 59 then return nil end
  local days = days_of(tonumber(year), tonumber(month), tonumber(day))
  local _, same_month, same_day = date_of(days)
  if same_month ~= tonumber(month) or same_day ~= tonumber(day) then return nil end
  return days * 86400 + hour * 3600 + minute * 60 + rest
end

-- The microseconds since 1970 that a text stands for; nil if it is no such time.
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

-- A number that a caller gave (`text`), as a whole one from `low` to `high`. No script uses one before this: infinite
-- and huge ones become the bound, and what is no number at all is refused before anything is written.
local function bounded(text, low, high)
  local number = tonumber(text)
  if not number or number ~= number then error('ERR Not a number: ' .. tostring(text)) end
  return math.floor(math.max(low, math.min(high, number)))
end

-- Digits and nothing else, as the service writes its numbers: '1e9', '0x10' and ' 1' are somebody else's.
local function is_whole(text, limit)
  return text ~= '' and not string.find(text, '%D') and #text <= 16 and tonumber(text) <= limit
end

local function one_more(counter) return math.min(counter + 1, MAX_COUNT) end

-- The answer of a command, or `default` where its key holds somebody else's data.
local function ask(default, ...)
  local answer = try(...)
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
  try('LPUSH', TROUBLES, cjson.encode({what = what, id = id, reason = reason}))
  try('LTRIM', TROUBLES, 0, 99)
end

-- Calls `act`, and reports what the store refuses in it: one execution, or one key with somebody else's data under it,
-- must not stop what is done for the others. Answers whether it was done, and what `act` answers.
local function dealt_with(what, id, act, ...)
  local done, answer, more = pcall(act, ...)
  if not done then report(what, id, type(answer) == 'table' and answer.err or tostring(answer)) end
  return done, answer, more
end

-- Counting never stops a transition: where the key holds something else, nothing is counted.
local function count(field, amount)
  try('HINCRBY', COUNTS, field, amount or 1)
end

local function bucket(microseconds)
  for i = 1, #BOUNDS do
    if microseconds <= BOUNDS[i] * 1000 then return BOUNDS[i] end
  end
  return 'inf'
end

-- Adds durations to a histogram: to their buckets, and to the sum.
local function count_durations(name, durations)
  local buckets, sum = {}, 0
  for i = 1, #durations do
    local place = bucket(durations[i])
    buckets[place] = (buckets[place] or 0) + 1
    sum = sum + math.max(0, durations[i])
  end
  for place, amount in pairs(buckets) do count(name .. ':' .. place, amount) end
  if #durations > 0 then count(name .. ':sum', whole(sum)) end
end

-- What RQ's tools know of a worker (`queue:name`): the key of its hash, and the sets that name it.
local function rq_worker(worker)
  local queue, name = worker:match('^([^:]*):(.*)$')
  if name then return 'rq:worker:' .. name, RQ_WORKERS, RQ_WORKERS .. ':' .. queue end
end

-- A worker is registered with RQ as it starts; where that was lost (FLUSHALL, say), it is again with its next beat.
local function register(worker)
  local key, all, of_queue = rq_worker(worker)
  if key then
    try('SADD', all, key)
    try('SADD', of_queue, key)
    try('HSETNX', key, 'state', 'idle')
  end
end

-- Counts in RQ's hash of a worker. That of a worker which is not registered (its hash has expired) stays away.
-- Answers what was counted so far, or nil.
local function count_for_worker(name, field, amount)
  local key = 'rq:worker:' .. name
  local total = try('HINCRBY', key, field, amount)
  if total == amount and call('HEXISTS', key, 'last_heartbeat') == 0 then
    call('UNLINK', key)
    return nil
  end
  return type(total) == 'number' and total or nil
end
