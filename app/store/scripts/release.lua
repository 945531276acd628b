-- running -> pending, by whoever holds the attempt's token:
--   `handed_back`: its worker is shut down; to the queue's front, and the attempt does not count. But what a
--     shutdown ended twenty times counts as lost from then on: it may be what ends its workers
--   `failed`: its flow failed and is tried again on purpose (config.retries), after a delay
--   `set_apart`: handed back because its process hung, and it may be the cause: it runs alone the next time
--   `lost`: its process died, as its parent saw; to the next attempt or, if none is left, to `failed`
--   `disturbed`, `suspected`: its process died with others in it (many, or so few that each runs alone the next time)
-- After a cancel request it becomes `cancelled` instead.
-- ARGV: id, token, usage (JSON, or ''), one of these words, delay in microseconds, the error's type or the
-- reason in a sentence; of what is handed back `unstarted` if nothing of it ran.
-- Answers the status it has now, or `lost` for a stale token (also where the call is repeated).
local MAX_RETURNED = 20

local function run(ARGV)
  local id, token, usage, how, delay, reason = unpack(ARGV, 1, 6)
  local record = load(id)
  if not record or record.state ~= 'running' or record.token ~= token then return 'lost' end

  local at = now()
  delay = bounded(delay, 0, LONGEST)
  usage = usage ~= '' and {'usage', usage} or {}
  if how == 'lost' then return lose(record, at, reason, usage) end
  if how == 'disturbed' or how == 'suspected' then
    return lose_with_others(record, at, reason, usage, how == 'suspected')
  end
  if record.cancel then
    end_as(record, 'cancelled', at, usage)
    return 'cancelled'
  end
  if usage[1] then call('HSET', job_key(id), unpack(usage)) end
  if how == 'failed' then
    record.retried = one_more(record.retried)
    requeue(record, at, delay, 'failed', reason)
    count('a:retried')
    return 'pending'
  end
  if reason ~= 'unstarted' then
    local returned = ask(0, 'HINCRBY', job_key(id), 'returned', 1)
    if returned > MAX_RETURNED then return lose(record, at, 'Its worker was shut down while it ran, again and again.') end
  end
  requeue(record, at, delay)
  if how == 'set_apart' then call('HSET', job_key(id), 'deaths', math.max(record.deaths, ALONE)) end
  count('a:handed_back')
  return 'pending'
end
