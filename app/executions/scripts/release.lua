-- running -> pending, by whoever holds the attempt's token:
--   `handed_back`: its worker is shut down; to the queue's front, and the attempt does not count. But what a
--     shutdown ended twenty times counts as lost from then on: it may be what ends its workers
--   `set_apart`: the same, but its process hung, and it may be the one that held it: it is run alone the next time
--   `failed`: its flow failed and is tried again on purpose (config.retries), after a delay
--   `lost`: its process died, as its parent saw; to the next attempt or, if none is left, to `failed`
--   `disturbed`, `suspected`: its process died with others in it (many, or so few that each is run alone the next time)
-- After a cancel request it becomes `cancelled` instead.
-- ARGV: id, token, usage (JSON, or ''), one of these words, delay in microseconds, the error's type or the
-- reason in a sentence; of what is handed back `unstarted` if nothing of it ran.
-- Answers the status it has now, or `lost` for a stale token (also where the call is repeated).
local MAX_RETURNED = 20
work_when_full()
local record, how = load(ARGV[1]), ARGV[4]
if not record or record.status ~= 'started' or record.token ~= ARGV[2] then return 'lost' end

local at, delay = now(), bounded(ARGV[5], 0, LONGEST)
note_usage(record.id, ARGV[3])
if how == 'lost' then return lose(record, at, ARGV[6]) end
if how == 'disturbed' or how == 'suspected' then
  return lose_with_others(record, at, ARGV[6], how == 'suspected')
end
if record.cancel then
  end_as(record, 'cancelled', at)
  return 'cancelled'
end
if how == 'failed' then
  record.retried = one_more(record.retried)
  requeue(record, at, delay, 'failed', ARGV[6])
  count('a:retried')
else
  if ARGV[6] ~= 'unstarted' then
    local returned = ask(0, 'HINCRBY', job_key(record.id), 'returned', 1)
    if returned > MAX_RETURNED then return lose(record, at, 'Its worker was shut down while it ran, again and again.') end
  end
  requeue(record, at, delay)
  if how == 'set_apart' then redis.call('HSET', job_key(record.id), 'deaths', math.max(record.deaths, ALONE)) end
  count('a:handed_back')
end
return 'pending'
