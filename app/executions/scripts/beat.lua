-- running -> running, for many executions of one worker: extends each lease, stores its progress and usage.
-- It also notes that the worker lives, and how much of it is in use.
-- ARGV: lease in microseconds, worker (`queue:name`, or '' where it is not to be noted), its slots (`used/all`),
--   then id, token, progress, usage (each JSON, or '' where it did not change), ...
-- Answers a word for each: `ok`, `cancel` (asked to stop), or `lost` (it is not this attempt's any more).
work_when_full()
local at = now()
local ends, answers = whole(at + bounded(ARGV[1], 1, LONGEST)), {}
if ARGV[2] ~= '' then
  redis.pcall('ZADD', WORKERS, whole(at), ARGV[2])  -- what is wrong with these must not let leases run out
  redis.pcall('HSET', SLOTS, ARGV[2], ARGV[3])
  register(ARGV[2])
end
for i = 4, #ARGV, 4 do
  local id = ARGV[i]
  local record = redis.pcall('HMGET', job_key(id), 'status', 'token', 'cancel')
  if not record.err and record[1] == 'started' and record[2] == ARGV[i + 1] then
    redis.call('ZADD', LEASES, ends, id)
    if ARGV[i + 2] ~= '' then redis.call('HSET', job_key(id), 'progress', ARGV[i + 2]) end
    note_usage(id, ARGV[i + 3])
    answers[#answers + 1] = record[3] and 'cancel' or 'ok'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers
