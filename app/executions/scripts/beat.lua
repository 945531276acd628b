-- running -> running, for many executions of one worker: extends each lease, stores its progress and usage.
-- It also notes that the worker lives, and how much of it is in use.
-- Reports of an attempt are numbered 1, 2, ...; one that arrives behind a later one is not stored.
-- ARGV: lease in microseconds, worker (`queue:name`, or '' if it is not to be noted), its slots (`used/all`),
--   then id, token, number of the report, progress, usage (each JSON, or '' if unchanged), ...
-- Returns a word for each: `ok`, `cancel` (asked to stop), or `lost` (the lease belongs to another attempt).
local lease, worker, slots = ARGV[1], ARGV[2], ARGV[3]
work_when_full()
local at = now()
local ends, answers = whole(at + bounded(lease, 1, LONGEST)), {}
if worker ~= '' then
  redis.pcall('ZADD', WORKERS, whole(at), worker)  -- a failure here must not let leases run out
  redis.pcall('HSET', SLOTS, worker, slots)
  register(worker)
end
for i = 4, #ARGV, 5 do
  local id, token, number, progress, usage = unpack(ARGV, i, i + 4)
  local record = redis.pcall('HMGET', job_key(id), 'status', 'token', 'cancel', 'reported')
  if not record.err and record[1] == 'started' and record[2] == token then
    redis.call('ZADD', LEASES, ends, id)
    number = bounded(number, 0, FOREVER)
    if (progress ~= '' or usage ~= '') and number > (tonumber(record[4]) or 0) then
      redis.call('HSET', job_key(id), 'reported', whole(number))
      if progress ~= '' then redis.call('HSET', job_key(id), 'progress', progress) end
      note_usage(id, usage)
    end
    answers[#answers + 1] = record[3] and 'cancel' or 'ok'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers
