-- running -> running, for many executions of one worker: extends their leases, stores their
-- progress and usage. It also notes that the worker is alive, and how many slots it uses.
-- A worker calls it several times a lease. Reports of an attempt are numbered 1, 2, ...; one that
-- arrives after a later one is not stored.
-- ARGV: lease in microseconds, worker (`queue:name`, or '' if it is not to be noted), its slots
--   (`used/all`), then id, token, number of the report, progress, usage (each JSON, or '' if
--   unchanged), ...
-- Returns a word for each: `ok`, `cancel` (a cancel was requested), or `lost` (the lease belongs to
-- another attempt).
local function run(ARGV)
  local lease, worker, slots = bounded(ARGV[1], 1, LONGEST), ARGV[2], ARGV[3]
  local at = now()
  local ends, answers = integer(at + lease), {}
  if worker ~= '' then
    try('ZADD', WORKERS, integer(at), worker)  -- a failure here must not let leases expire
    try('HSET', SLOTS, worker, slots)
    register(worker)
  end
  for i = 4, #ARGV, 5 do
    local id, token, number, progress, usage = unpack(ARGV, i, i + 4)
    local key = job_key(id)
    local record = try('HMGET', key, 'status', 'token', 'cancel', 'reported')
    if not record.err and record[1] == 'started' and record[2] == token then
      call('ZADD', LEASES, ends, id)
      number = bounded(number, 0, FOREVER)
      if (progress ~= '' or usage ~= '') and number > (tonumber(record[4]) or 0) then
        call('HSET', key, 'reported', integer(number))
        if progress ~= '' then call('HSET', key, 'meta', meta('running', progress)) end
        if usage ~= '' then call('HSET', key, 'usage', usage) end
      end
      answers[#answers + 1] = record[3] and 'cancel' or 'ok'
    else
      answers[#answers + 1] = 'lost'
    end
  end
  return answers
end
