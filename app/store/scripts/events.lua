-- The log of an execution: its events, numbered 1, 2, ... without a gap. A script that changes what
-- a client can see tells it here, in the same step.
--
-- The field `version` of the record is the number of the latest event. While the record itself says
-- what happened (`created`, `started`, the end), nothing else is stored: app/store/events.py reads
-- these events from it. The first event that does not fit this pattern makes the list of all
-- events. An entry is `[microseconds,"type",{data}]`, and the last one has the number `version`.
--
-- Every event is published for those who wait, and changes of the status go into the feed of the
-- tenant. None of this may stop a transition, so refused commands are ignored here.

local CHANGED = 'exec:changed:'  -- the channel of an execution, with its id
local FEED = 'exec:changes:'     -- the stream of a tenant, with its name
local FEED_LENGTH = 10000
local FEED_EVENTS = {created = true, started = true, retrying = true, cancelling = true,
                     completed = true, failed = true, cancelled = true}

-- What a child may report of its run; the scripts alone tell the rest.
local REPORTED_EVENTS = {log = true, ['output.delta'] = true, ['step.started'] = true,
                         ['step.completed'] = true, ['step.failed'] = true, ['step.skipped'] = true}

local function is_json(text) return (pcall(cjson.decode, text)) end

local function entry(at, type, data)
  return '[' .. integer(at) .. ',"' .. type .. '",' .. (data or '{}') .. ']'
end

-- The data of some events, as JSON.
local function attempt_data(attempt) return '{"attempt":' .. attempt .. '}' end

local function error_data(text)
  return text and is_json(text) and '{"error":' .. text .. '}' or nil
end

-- The events that the record itself says, as entries. A script that calls this has not changed the
-- record yet.
local function events_of(record)
  local created, ended = microseconds(record.created_at), REGISTRY[record.state]
  local entries = {entry(created or 0, 'created')}
  if record.version > (ended and 2 or 1) then
    local started = microseconds(record.started_at) or created or 0
    entries[2] = entry(started, 'started', attempt_data(tonumber(record.attempt) or 1))
  end
  if ended then
    local error = record.state == 'failed' and ask(false, 'HGET', job_key(record.id), 'error')
    local at = microseconds(record.ended_at) or created or 0
    entries[#entries + 1] = entry(at, record.state, error and error_data(error))
  end
  return entries
end

-- Adds entries to the list, in pieces that `unpack` can hold. Returns its length. A key of another
-- type is replaced: the numbers then show that the earlier events are gone.
local function push(key, entries)
  local length
  for i = 1, #entries, 1000 do
    length = try('RPUSH', key, unpack(entries, i, math.min(i + 999, #entries)))
    if type(length) == 'table' then
      try('UNLINK', key)
      length = try('RPUSH', key, unpack(entries, i, math.min(i + 999, #entries)))
    end
  end
  return type(length) == 'number' and length or 0
end

-- Makes the list of the events that the record itself says.
local function make_list(record)
  local key = events_key(record.id)
  try('UNLINK', key)
  push(key, events_of(record))
  record.has_list = true
end

-- Whether the record says this event by itself, with this number.
local function is_in_record(record, type, number)
  if record.has_list then return false end
  return type == 'created' and number == 1 or type == 'started' and number == 2
    or REGISTRY[type] and number <= 3
end

-- Tells the tenant's feed of a change of the status.
local function feed(record, type, number)
  local change = cjson.encode({number, record.id, type, record.type or '', record.target or ''})
  change = string.sub(change, 1, -2) .. ',' .. (record.tags or 'null') .. ']'
  try('XADD', FEED .. record.tenant, 'MAXLEN', '~', FEED_LENGTH, '*', 'e', change)
end

-- Prepares an event, which the next `tell` or `tell_all` tells before its own.
local function note(record, at, type, data)
  local types = record.types or {}
  local entries = record.entries or {}
  types[#types + 1], entries[#entries + 1] = type, entry(at, type, data)
  record.types, record.entries = types, entries
end

-- Tells the events that are noted. Returns the new version, which the caller writes to the record
-- together with what has changed. `max_events` is the length to which the list is trimmed, if any.
local function tell_all(record, max_events)
  local types, entries, first = record.types, record.entries, record.version + 1
  if not types then return record.version end
  if #types > 1 or not is_in_record(record, types[1], first) then
    if first <= 3 and not record.has_list then make_list(record) end
    local key = events_key(record.id)
    local length = push(key, entries)
    if max_events and length > max_events then try('LTRIM', key, -max_events, -1) end
  end
  record.version, record.types, record.entries = record.version + #types, nil, nil
  local is_final = REGISTRY[types[#types]] and '1' or '0'
  local head = integer(first) .. ':' .. is_final .. ':['
  try('PUBLISH', CHANGED .. record.id, head .. table.concat(entries, ',') .. ']')
  for i = 1, #types do
    local type, number = types[i], first + i - 1
    if FEED_EVENTS[type] then feed(record, type, number) end
    if record.callback then queue_delivery(record, type, number, now()) end
  end
  return record.version
end

-- Tells one event, after those that are noted. Returns the new version.
local function tell(record, at, type, data)
  note(record, at, type, data)
  return tell_all(record)
end

-- Notes what the child of an attempt reports: '' or JSON `[first,text,...]`, where `first` is the
-- number of the first text in this attempt, and a text is `"type",{data}`. Those that are stored
-- already are left out. Returns the number of the last one, for the field `told`.
local function note_reported(record, at, text)
  local told = tonumber(record.told) or 0
  if text == '' then return told end
  local read, list = pcall(cjson.decode, text)
  if not read or type(list) ~= 'table' or type(list[1]) ~= 'number' then return told end
  local before = list[1] - 1
  for i = math.max(2, told - before + 2), #list do
    local name, data = string.match(tostring(list[i]), '^"([%l.]+)",({.*})$')
    if REPORTED_EVENTS[name] then note(record, at, name, data) end
  end
  return math.max(told, before + #list - 1)
end

-- Notes that a running execution came further, if it did. `progress` and `usage` are JSON, or ''.
-- Returns the changed fields of the record, with their values.
local function note_progress(record, at, progress, usage)
  local fields = {}
  local new_meta = progress ~= '' and meta('running', progress) or record.meta
  if new_meta ~= record.meta then fields[1], fields[2] = 'meta', new_meta end
  if usage ~= '' and usage ~= record.usage then
    fields[#fields + 1], fields[#fields + 2] = 'usage', usage
  end
  if #fields > 0 then
    record.meta = new_meta
    note(record, at, 'progress', last_progress(record))
  end
  return fields
end
