-- The record of an execution: reading it, and finding out whether it makes sense.
--
-- It is the hash of its RQ job, in RQ's own fields where RQ has one: `status` in RQ's word, `meta` with the documented
-- API's word and the progress, times as RQ writes them. What is large stands in keys beside it: so the record stays in
-- the store's compact form, and a status is read without what was put in.

-- RQ's `data` names a function to call. This one only says who runs it; what was asked stands in a key of its own.
local CALL = '["app.domain.payload.execution",null,[],{}]'

local FIELDS = {'status', 'tenant', 'type', 'target', 'origin', 'meta', 'created_at', 'enqueued_at', 'started_at',
                'ended_at', 'timeout', 'worker_name', 'attempt', 'token', 'cancel', 'steps', 'lost', 'retried',
                'max_attempts', 'expires', 'retries', 'timeout_seconds', 'deaths'}

-- What has to make sense of an execution that is ending: what is shown of it, and where it is listed.
local SHOWN_FIELDS = {'status', 'tenant', 'type', 'target', 'origin', 'meta', 'created_at', 'started_at', 'ended_at',
                      'worker_name', 'attempt', 'token', 'cancel', 'steps'}

local function meta(state, progress)
  return '{"status":"' .. state .. '","progress":' .. (progress or 'null') .. '}'
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

-- As it was written, apart from the progress: that is only looked at by people, and so by `mend` alone.
local function is_meta(text, state)
  local first = '{"status":"' .. state .. '","progress":'
  return text and string.sub(text, 1, #first) == first
end

local function and_also(found, name)
  found = found or {}
  found[#found + 1] = name
  return found
end

-- The names of a record's fields whose values make no sense; nil if all do, which is the rule and costs little.
-- `record` gets its state (the API's word), its times as numbers, and its counters. Of what has ended, only what is still
-- shown has to make sense: the rest harms nobody any more. The same holds for what is `ending`.
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
  if record.attempt and not is_whole(record.attempt, MAX_COUNT) then found = and_also(found, 'attempt') end
  if record.steps and not is_whole(record.steps, MAX_COUNT) then found = and_also(found, 'steps') end
  if not living and not microseconds(record.ended_at) then found = and_also(found, 'ended_at') end
  if not living or ending then return found end
  if not record.origin then found = and_also(found, 'origin') end
  record.enqueued = microseconds(record.enqueued_at)
  if not record.enqueued then found = and_also(found, 'enqueued_at') end
  if not is_seconds(record.timeout or '') then found = and_also(found, 'timeout') end
  local more = record.timeout_seconds
  if more and not is_seconds(more) then found = and_also(found, 'timeout_seconds') end
  if record.retries and not is_list_of_numbers(record.retries) then found = and_also(found, 'retries') end
  if record.expires and not is_whole(record.expires, FOREVER) then found = and_also(found, 'expires') end
  if record.lost and not is_whole(record.lost, MAX_COUNT) then found = and_also(found, 'lost') end
  if record.retried and not is_whole(record.retried, MAX_COUNT) then found = and_also(found, 'retried') end
  if record.deaths and not is_whole(record.deaths, MAX_COUNT) then found = and_also(found, 'deaths') end
  more = record.max_attempts
  if more and not is_whole(more, MAX_COUNT) then found = and_also(found, 'max_attempts') end
  return found
end

local quarantine, renew  -- below: in moves.lua and old.lua

-- The fields `names` of a record that are there; nil where no tenant has such an execution.
local function fields_of(id, names)
  local values, record = try('HMGET', job_key(id), unpack(names)), {id = id}
  if values.err then return nil end
  for i = 1, #names do
    local value = values[i]
    if value and value ~= '' then record[names[i]] = value end
  end
  return record.tenant and record or nil
end

-- What transitions look at, with its counters as numbers; nil where no tenant has such an execution. A record that makes
-- no sense is quarantined first, so that every function finds the same: an execution that failed. `names` has the
-- fields that transitions look at among others, or is SHOWN_FIELDS for one that is ending.
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
  record.attempt, record.lost = tonumber(record.attempt or 0), tonumber(record.lost or 0)
  record.max_attempts, record.retried = tonumber(record.max_attempts or 0), tonumber(record.retried or 0)
  record.deaths = tonumber(record.deaths or 0)
  return record
end
