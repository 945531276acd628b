-- running -> running: what a pipeline's run has done since its last checkpoint, all or nothing: the records of
-- steps that changed, outcomes and outputs, progress and usage. Its lease is not extended.
-- An attempt numbers its checkpoints 1, 2, ... One that was stored before, or that arrives behind a later one,
-- changes nothing, so a step that has ended is never set back to running.
-- ARGV: id, token, usage, number, progress, definition that is run, how many records, outcomes, values and
-- dropped values there are; then step, record, moment (`started`, `ended` or '') for each record; item, outcome
-- for each outcome; name, output for each value; the names that are dropped.
-- Returns `ok`, `cancel` (asked to stop), or `lost` for a stale token: then nothing was stored.
local function run(ARGV)
  local id, token, usage, number, progress, definition = unpack(ARGV, 1, 6)
  local sizes = {}
  for i = 1, 4 do sizes[i] = bounded(ARGV[6 + i], 0, #ARGV) end
  if 10 + 3 * sizes[1] + 2 * sizes[2] + 2 * sizes[3] + sizes[4] ~= #ARGV then
    error('ERR These are not as many as is said')
  end
  local record = try('HMGET', job_key(id), 'status', 'token', 'cancel', 'saved', 'definition')
  if record.err or record[1] ~= 'started' or record[2] ~= token then return 'lost' end
  local answer = record[3] and 'cancel' or 'ok'
  number = bounded(number, 0, FOREVER)
  if number <= (tonumber(record[4]) or 0) then return answer end

  if record[5] ~= definition then
    call('UNLINK', steps_key(id), values_key(id))  -- steps of another definition
  end
  local at, next = whole(now()), 11
  call('HSET', job_key(id), 'meta', meta('running', progress), 'definition', definition)
  if usage ~= '' then call('HSET', job_key(id), 'usage', usage) end
  for _ = 1, sizes[1] do
    local step, moment = ARGV[next], ARGV[next + 2]
    call('HSET', steps_key(id), step, ARGV[next + 1])
    if moment == 'started' then call('HDEL', steps_key(id), step .. ':ended') end
    if moment ~= '' then call('HSET', steps_key(id), step .. ':' .. moment, at) end
    next = next + 3
  end
  for _ = 1, sizes[2] do
    call('HSET', steps_key(id), ARGV[next], ARGV[next + 1])
    next = next + 2
  end
  for _ = 1, sizes[3] do
    call('HSET', values_key(id), ARGV[next], ARGV[next + 1])
    next = next + 2
  end
  for _ = 1, sizes[4] do
    call('HDEL', values_key(id), ARGV[next])
    next = next + 1
  end
  call('HSET', job_key(id), 'saved', whole(number))  -- last: a call that failed above may be repeated
  return answer
end
