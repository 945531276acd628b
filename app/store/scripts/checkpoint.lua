-- running -> running: stores what a pipeline has done since its last checkpoint, all or nothing:
-- changed records of steps, outcomes of items, outputs, progress and usage. It extends no lease.
-- The worker calls it after steps. An attempt numbers its checkpoints 1, 2, ... One that is already
-- stored, or arrives after a later one, changes nothing, so no step goes from ended to running.
-- ARGV: id, token, usage, number, progress, definition, the numbers of records, outcomes, values
--   and dropped values; then step, record, moment (`started`, `ended` or '') for each record; item,
--   outcome for each outcome; name, output for each value; the names of the dropped values.
-- Returns `ok`, `cancel` (a cancel was requested), or `lost` for a stale token: nothing is stored.
local function run(ARGV)
  local id, token, usage, number, progress, definition = unpack(ARGV, 1, 6)
  local record_count, outcome_count = bounded(ARGV[7], 0, #ARGV), bounded(ARGV[8], 0, #ARGV)
  local value_count, dropped_count = bounded(ARGV[9], 0, #ARGV), bounded(ARGV[10], 0, #ARGV)
  local size = 10 + 3 * record_count + 2 * outcome_count + 2 * value_count + dropped_count
  if size ~= #ARGV then error('ERR The number of arguments does not match the four counts') end
  local record = try('HMGET', job_key(id), 'status', 'token', 'cancel', 'saved', 'definition')
  if record.err or record[1] ~= 'started' or record[2] ~= token then return 'lost' end
  local answer = record[3] and 'cancel' or 'ok'
  number = bounded(number, 0, FOREVER)
  if number <= (tonumber(record[4]) or 0) then return answer end

  if record[5] ~= definition then
    call('UNLINK', steps_key(id), values_key(id))  -- steps of another definition
  end
  local at, position = integer(now()), 11
  call('HSET', job_key(id), 'meta', meta('running', progress), 'definition', definition)
  if usage ~= '' then call('HSET', job_key(id), 'usage', usage) end
  for _ = 1, record_count do
    local step, text, moment = unpack(ARGV, position, position + 2)
    call('HSET', steps_key(id), step, text)
    if moment == 'started' then call('HDEL', steps_key(id), step .. ':ended') end
    if moment ~= '' then call('HSET', steps_key(id), step .. ':' .. moment, at) end
    position = position + 3
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
  call('HSET', job_key(id), 'saved', integer(number))  -- last: a call that failed can be repeated
  return answer
end
