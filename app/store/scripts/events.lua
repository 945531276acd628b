-- The log of an execution: its events, numbered 1, 2, ... without a gap. A script that changes what
-- a client can see tells it here, in the same step.
--
-- The field `version` of the record is the number of the latest event. As long as the record itself
-- says what happened (`created`, `started`, the end), nothing else is stored: app/store/events.py
-- reads these events from it. The first event that does not fit this pattern makes the list of all
-- events. An entry is `[microseconds,"type",{data}]`, and the last one has the number `version`.
--
-- Every event is published for those who wait. Changes of the status go into the feed of the tenant,
-- and to the execution's callback. None of this may stop a transition: what the store refuses here,
-- because a key has the wrong type, is left out.

-- What other files use. The rest is hidden, because Lua allows only 200 names side by side.
local attempt_data, error_data, make_list, tell, tell_all
local note_child_event, note_reported, note_progress
do
local CHANGED = 'exec:changed:'  -- the channel of an execution, before its id
local FEED = 'exec:changes:'     -- the stream of a tenant, before its name
local FEED_LENGTH = 10000        -- roughly: the store removes whole pieces of the stream
local FEED_SECONDS = 30 * 86400  -- it leaves so long after the tenant's last start
local STATUS_EVENTS = {created = true, started = true, retrying = true, cancelling = true,
                       completed = true, failed = true, cancelled = true}

-- What a child may report of its run. The scripts alone tell everything else.
local CHILD_EVENTS = {log = true, ['output.delta'] = true, ['step.started'] = true,
                      ['step.completed'] = true, ['step.failed'] = true, ['step.skipped'] = true}

local function is_json(text) return (pcall(cjson.decode, text)) end

local function entry(at, type, data)
  return '[' .. integer(at) .. ',"' .. type .. '",' .. (data or '{}') .. ']'
end

-- The data of two events, as JSON.
function attempt_data(attempt) return '{"attempt":' .. attempt .. '}' end

function error_data(text)
  return text and is_json(text) and '{"error":' .. text .. '}' or nil
end

-- The events that the record itself says, as entries.
local function events_of(record)
  local created, ended = microseconds(record.created_at) or 0, REGISTRY[record.state]
  local entries = {entry(created, 'created')}
  if record.version > (ended and 2 or 1) then
    local started, attempt = microseconds(record.started_at), tonumber(record.attempt)
    entries[2] = entry(started or created, 'started', attempt_data(attempt or 1))
  end
  if ended then
    local error = record.state == 'failed' and ask(false, 'HGET', job_key(record.id), 'error')
    local at = microseconds(record.ended_at)
    entries[#entries + 1] = entry(at or created, record.state, error and error_data(error))
  end
  return entries
end

-- Adds entries to the list, in pieces that `unpack` can hold. Returns its length. A key of another
-- type is replaced: the first number in the log then shows that the earlier events are gone.
local function push(key, entries)
  local length
  for i = 1, #entries, 1000 do
    local last = math.min(i + 999, #entries)
    length = try('RPUSH', key, unpack(entries, i, last))
    if type(length) == 'table' then
      try('UNLINK', key)
      length = try('RPUSH', key, unpack(entries, i, last))
    end
  end
  return type(length) == 'number' and length or 0
end

-- Stores the events that the record itself says, because they will not be all. `told`, the number of
-- the last stored report of the child, is in the record from now on, until the execution ends. (If
-- it is still there then, older code has ended it and told nothing: see app/store/events.py.)
function make_list(record)
  local key = events_key(record.id)
  try('UNLINK', key)
  push(key, events_of(record))
  call('HSET', job_key(record.id), 'told', 0)
  record.has_list = true
end

-- Whether the record says the event with this number by itself.
local function is_in_record(record, type, number)
  if record.has_list then return false end
  return type == 'created' and number == 1 or type == 'started' and number == 2
    or REGISTRY[type] and number <= 3
end

-- Tells a change of the status to the tenant's feed and to the callback.
local function announce(record, type, number)
  local tags = record.tags and is_json(record.tags) and record.tags or 'null'
  local change = '[' .. number .. ',"' .. record.id .. '","' .. type .. '","' .. record.type
    .. '",' .. cjson.encode(record.target) .. ',' .. tags .. ']'
  local key = FEED .. record.tenant
  try('XADD', key, 'MAXLEN', '~', FEED_LENGTH, '*', 'e', change)
  if type == 'created' then try('EXPIRE', key, FEED_SECONDS) end
  if record.callback then queue_delivery(record, type, number, now()) end
end

-- Publishes entries, of which the first one has the number `first` and the last one this type.
local function publish(record, first, type, entries)
  local head = first .. ':' .. (REGISTRY[type] and '1' or '0') .. ':['
  try('PUBLISH', CHANGED .. record.id, head .. entries .. ']')
end

-- Prepares an event, which the next `tell` or `tell_all` tells before its own.
local function note(record, at, type, data)
  local types, entries = record.types or {}, record.entries or {}
  types[#types + 1], entries[#entries + 1] = type, entry(at, type, data)
  record.types, record.entries = types, entries
end

-- Tells the events that are noted. Returns the new version, which the caller writes to the record
-- together with what has changed. `max_events` is the length to which the list is trimmed, if any.
function tell_all(record, max_events)
  local types, entries, first = record.types, record.entries, record.version + 1
  if not types then return record.version end
  if first <= 3 and not record.has_list then make_list(record) end
  local key = events_key(record.id)
  local length = push(key, entries)
  if max_events and length > max_events then try('LTRIM', key, -max_events, -1) end
  record.version, record.types, record.entries = record.version + #types, nil, nil
  publish(record, first, types[#types], table.concat(entries, ','))
  for i = 1, #types do
    if STATUS_EVENTS[types[i]] then announce(record, types[i], first + i - 1) end
  end
  return record.version
end

-- Tells one event, after those that are noted. Returns the new version, like `tell_all`.
function tell(record, at, type, data)
  local number = record.version + 1
  if record.types or not is_in_record(record, type, number) then
    note(record, at, type, data)
    return tell_all(record)
  end
  record.version = number
  publish(record, number, type, entry(at, type, data))
  announce(record, type, number)
  return number
end

-- Notes an event of a child: `"type",{data}`.
function note_child_event(record, at, text)
  local type, data = string.match(text, '^"([%l.]+)",({.*})$')
  if CHILD_EVENTS[type] then note(record, at, type, data) end
end

-- Notes what a child reports: '' or JSON `[first,text,...]`, where `first` is the number of the
-- first text in this attempt. Those that are stored already are left out. Returns the number of the
-- last one, for the field `told` of the record; nil if there is nothing new.
function note_reported(record, at, reported)
  if reported == '' then return nil end
  local read, list = pcall(cjson.decode, reported)
  local first = read and type(list) == 'table' and list[1]
  if type(first) ~= 'number' or first % 1 ~= 0 or first < 1 or first > MAX_COUNT then return nil end
  local told = tonumber(ask(false, 'HGET', job_key(record.id), 'told') or 0) or 0
  local last = first + #list - 2
  if last <= told then return nil end
  for i = math.max(2, told - first + 3), #list do note_child_event(record, at, tostring(list[i])) end
  return integer(last)
end

-- Notes that a running execution came further, if it did. `progress` and `usage` are JSON, or ''.
-- With `is_changed`, a step or an item has changed: if no event is noted of it, the progress tells.
-- Returns the changed fields of the record, with their values.
function note_progress(record, at, progress, usage, is_changed)
  local fields, new_meta = {}, progress ~= '' and meta('running', progress) or record.meta
  if new_meta ~= record.meta then fields[1], fields[2] = 'meta', new_meta end
  if usage ~= '' and usage ~= record.usage then
    fields[#fields + 1], fields[#fields + 2] = 'usage', usage
  end
  if #fields > 0 or is_changed and not record.types then
    record.meta = new_meta
    note(record, at, 'progress', last_progress(record))
  end
  return fields
end
end
