-- running -> running: stores what a pipeline has done since its last checkpoint, all or nothing:
-- changed records of steps, outcomes of items, outputs, progress and usage. It extends no lease.
-- The worker calls it after steps. An attempt numbers its checkpoints 1, 2, ... One that is already
-- stored, or arrives after a later one, changes nothing, so no step goes from ended to running.
-- ARGV: id, token, usage, events of the child, how many events an execution keeps, number,
--   progress, definition, the numbers of records, outcomes, values and dropped values; then step,
--   record, moment (`started`, `ended` or ''), event (`"type",{data}` or '') for each record; item,
--   outcome for each outcome; name, output for each value; the names of the dropped values.
-- Returns `ok`, `cancel` (a cancel was requested), or `lost` for a stale token: nothing is stored.

local CHECKPOINT = {'status', 'tenant', 'token', 'cancel', 'saved', 'definition', 'created_at',
                    'started_at', 'attempt', 'meta', 'usage', 'version'}

-- Tells what is noted, and writes the record. `told` is what `note_reported` has returned.
local function write_record(record, max_events, told, fields)
  if told then fields[#fields + 1], fields[#fields + 2] = 'told', told end
  call('HSET', job_key(record.id), 'version', tell_all(record, max_events), unpack(fields))
end

local function run(ARGV)
  local id, token, usage, events = unpack(ARGV, 1, 4)
  local max_events, number = bounded(ARGV[5], 1, MAX_COUNT), bounded(ARGV[6], 0, FOREVER)
  local progress, definition = ARGV[7], ARGV[8]
  local record_count, outcome_count = bounded(ARGV[9], 0, #ARGV), bounded(ARGV[10], 0, #ARGV)
  local value_count, dropped_count = bounded(ARGV[11], 0, #ARGV), bounded(ARGV[12], 0, #ARGV)
  local size = 12 + 4 * record_count + 2 * outcome_count + 2 * value_count + dropped_count
  if size ~= #ARGV then error('ERR The number of arguments does not match the four counts') end
  local record = running(id, CHECKPOINT)
  if not record or record.status ~= 'started' or record.token ~= token then return 'lost' end
  local answer = record.cancel and 'cancel' or 'ok'
  local at, position = now(), 13
  local told = note_reported(record, at, events)
  if number <= (tonumber(record.saved) or 0) then
    write_record(record, max_events, told, {})  -- a repeated call may bring further events
    return answer
  end
  if record.definition ~= definition then
    call('UNLINK', steps_key(id), values_key(id))  -- steps of another definition
  end
  for _ = 1, record_count do
    local step, text, moment, event = unpack(ARGV, position, position + 3)
    call('HSET', steps_key(id), step, text)
    if moment == 'started' then call('HDEL', steps_key(id), step .. ':ended') end
    if moment ~= '' then call('HSET', steps_key(id), step .. ':' .. moment, integer(at)) end
    if event ~= '' then note_child_event(record, at, event) end
    position = position + 4
  end
  for _ = 1, outcome_count do
    local item, outcome = ARGV[position], ARGV[position + 1]
    call('HSET', steps_key(id), item, outcome)
    position = position + 2
  end
  for _ = 1, value_count do
    local name, output = ARGV[position], ARGV[position + 1]
    call('HSET', values_key(id), name, output)
    position = position + 2
  end
  for _ = 1, dropped_count do
    call('HDEL', values_key(id), ARGV[position])
    position = position + 1
  end
  -- The record comes last: a call that failed above can be repeated.
  local fields = note_progress(record, at, progress, usage, record_count + outcome_count > 0)
  for _, part in ipairs({'definition', definition, 'saved', integer(number)}) do
    fields[#fields + 1] = part
  end
  write_record(record, max_events, told, fields)
  return answer
end
