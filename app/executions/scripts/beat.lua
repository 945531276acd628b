-- running -> running, for many executions of one worker: extends each lease, stores its progress and usage.
-- ARGV: lease in microseconds, then id, token, progress, usage (each JSON, or '' where it did not change), ...
-- Answers a word for each: `ok`, `cancel` (asked to stop), or `lost` (it is not this attempt's any more).
work_when_full()
local ends, answers = whole(now() + ARGV[1]), {}
for i = 2, #ARGV, 4 do
  local id = ARGV[i]
  local record = redis.call('HMGET', job_key(id), 'status', 'token', 'cancel')
  if record[1] == 'started' and record[2] == ARGV[i + 1] then
    redis.call('ZADD', LEASES, ends, id)
    if ARGV[i + 2] ~= '' then redis.call('HSET', job_key(id), 'progress', ARGV[i + 2]) end
    note_usage(id, ARGV[i + 3])
    answers[#answers + 1] = record[3] and 'cancel' or 'ok'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers
