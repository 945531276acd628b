-- Reads the record of an execution, and checks whether its fields are readable.
-- Every transition calls `load` here before it changes anything.
--
-- The record is the hash of its RQ job. It uses RQ's own field where there is one: `status` holds
-- RQ's word, `meta` the API's word and the progress, and times are as RQ writes them. Large values
-- are in keys of their own, so that the record stays in the store's compact form, and reading a
-- status does not read the inputs.

-- RQ's `data` names a function to call. This one only says who runs it: `data_key` has the request.
local CALL = '["app.domain.payload.execution",null,[],{}]'

-- All fields that transitions use.
local FIELDS = {'status', 'tenant', 'type', 'target', 'origin', 'meta', 'created_at',
                'enqueued_at', 'started_at', 'ended_at', 'timeout', 'worker_name', 'attempt',
                'token', 'cancel', 'steps', 'lost', 'retried', 'max_attempts', 'expires',
                'retries', 'timeout_seconds', 'deaths', 'version', 'callback', 'tags'}

-- The fields that must be readable when an execution ends: people see them, or lists need them.
local SHOWN_FIELDS = {'status', 'tenant', 'type', 'target', 'origin', 'meta', 'created_at',
                      'started_at', 'ended_at', 'worker_name', 'attempt', 'token', 'cancel',
                      'steps', 'version', 'callback', 'tags'}

local function meta(state, progress)
  return '{"status":"' .. state .. '","progress":' .. (progress or 'null') .. '}'
end

-- The progress of an execution that completed, as JSON.
local function all_done(record)
  local steps = record.steps or 1
  return '[' .. steps .. ',' .. steps .. ',null]'
end

-- The progress of an execution that ends early, as JSON: it shows how far it came. nil if it never
-- reported any, or it is unreadable.
local function last_progress(record)
  local text = record.state == 'running' and string.match(record.meta or '', '"progress":(%[.*%])}$')
  return text and pcall(cjson.decode, text) and text or nil
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

-- Whether `meta` is as it was written. The progress is not checked here: no transition uses it, so
-- `mend` alone does that.
local function is_meta(text, state)
  local first = '{"status":"' .. state .. '","progress":'
  return text and string.sub(text, 1, #first) == first
end

-- A counter that was never written is not there, and counts as 0.
local function is_counter(text) return not text or is_integer(text, MAX_COUNT) end

local function and_also(found, name)
  found = found or {}
  found[#found + 1] = name
  return found
end

-- The names of unreadable fields, or nil if there are none. (No table is made then: this is by far
-- the most frequent case.) Sets `state` (the API's word), and the times as numbers. If the
-- execution has ended or is `ending`, only the fields that are still shown are checked.
local function flaws(record, ending)
  local found, state = nil, API_WORD[record.status]
  local living = LIVING[state]
  record.state = state
  if not state then found = and_also(found, 'status') end
  if state and not is_meta(record.meta, state) then found = and_also(found, 'meta') end
  if record.type ~= 'agent' and record.type ~= 'pipeline' then found = and_also(found, 'type') end
  if not record.target then found = and_also(found, 'target') end
  record.created = microseconds(record.created_at)
  if not record.created then found = and_also(found, 'created_at') end
  if record.started_at or state == 'running' then
    record.started = microseconds(record.started_at)
    if not record.started then found = and_also(found, 'started_at') end
  end
  if not is_counter(record.attempt) then found = and_also(found, 'attempt') end
  if not is_counter(record.steps) then found = and_also(found, 'steps') end
  if not is_counter(record.version) then found = and_also(found, 'version') end
  if not living and not microseconds(record.ended_at) then found = and_also(found, 'ended_at') end
  if not living or ending then return found end
  if not record.origin then found = and_also(found, 'origin') end
  record.enqueued = microseconds(record.enqueued_at)
  if not record.enqueued then found = and_also(found, 'enqueued_at') end
  if not is_seconds(record.timeout or '') then found = and_also(found, 'timeout') end
  local seconds, retries, expires = record.timeout_seconds, record.retries, record.expires
  if seconds and not is_seconds(seconds) then found = and_also(found, 'timeout_seconds') end
  if retries and not is_list_of_numbers(retries) then found = and_also(found, 'retries') end
  if expires and not is_integer(expires, FOREVER) then found = and_also(found, 'expires') end
  if not is_counter(record.lost) then found = and_also(found, 'lost') end
  if not is_counter(record.retried) then found = and_also(found, 'retried') end
  if not is_counter(record.deaths) then found = and_also(found, 'deaths') end
  if not is_counter(record.max_attempts) then found = and_also(found, 'max_attempts') end
  return found
end

-- The number of the latest event. Older versions of the service told none of their changes: then it
-- is at least the number of the events that the record itself says (see events.lua).
local function version_of(record)
  local version, state = record.version, record.state
  if type(version) == 'number' then return version end
  local least = state == 'pending' and 1 or state == 'running' and 2 or record.started_at and 3 or 2
  if version and is_counter(version) then return math.max(least, tonumber(version)) end
  return math.max(least, ask(0, 'LLEN', events_key(record.id)))
end

local quarantine, renew  -- defined later, in moves.lua and old.lua

-- The fields `names` of a record, without missing ones; nil if there is no such execution.
local function fields_of(id, names)
  local values, record = try('HMGET', job_key(id), unpack(names)), {id = id}
  if values.err then return nil end
  for i = 1, #names do
    local value = values[i]
    if value and value ~= '' then record[names[i]] = value end
  end
  return record.tenant and record or nil
end

-- The fields `names` of an execution that its worker says it runs, without the checks of `load`: a
-- heartbeat reads too many records for them.
local function running(id, names)
  local record = fields_of(id, names)
  if record and not record.created_at and renew(record) then record = fields_of(id, names) end
  if not record then return nil end
  record.state = 'running'
  record.version = version_of(record)
  return record
end

-- The record with its counters as numbers; nil if there is no such execution. An unreadable record
-- is quarantined first, so that every function finds the same: a failed execution. `names` are
-- FIELDS and any further ones, or SHOWN_FIELDS if the execution is about to end.
local function load(id, names)
  names = names or FIELDS
  local record = fields_of(id, names)
  if not record then return nil end
  if not record.created_at and renew(record) then record = fields_of(id, names) end
  local found = flaws(record, names == SHOWN_FIELDS)
  if found then
    quarantine(record, found)
    record = fields_of(id, names)
    flaws(record)
  end
  record.version = version_of(record)
  record.attempt = tonumber(record.attempt or 0)
  record.max_attempts = tonumber(record.max_attempts or 0)
  record.lost = tonumber(record.lost or 0)
  record.retried = tonumber(record.retried or 0)
  record.deaths = tonumber(record.deaths or 0)
  return record
end
