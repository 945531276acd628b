-- running -> pending, by the worker that holds the attempt's token. `how` is one of:
--   `handed_back`  its worker shuts down: to the front of the queue, and the attempt does not
--                  count. After 20 of these each counts as lost: the execution may be the cause
--   `failed`       its flow failed, and `config.retries` allows another try after a delay
--   `set_apart`    its process got stuck and it may be the cause: it runs alone the next time
--   `lost`         its process died: to the next attempt or, if none is left, to `failed`
--   `disturbed`    its process died, together with many others in it
--   `suspected`    the same, with so few others that each of them runs alone the next time
-- After a cancel request it becomes `cancelled` instead.
-- ARGV: id, token, usage (JSON or ''), events of the child (see events.lua), how, delay in
--   microseconds, reason: the error's type, or a sentence; for `handed_back`, `unstarted` if no code
--   of it ran.
-- Returns the status after the call, or `lost` for a stale token, also if the call is repeated.
local MAX_RETURNED = 20

local function run(ARGV)
  local id, token, usage, events, how, delay, reason = unpack(ARGV, 1, 7)
  local record = load(id)
  if not record or record.state ~= 'running' or record.token ~= token then return 'lost' end

  local at = now()
  delay = bounded(delay, 0, LONGEST)
  usage = usage ~= '' and {'usage', usage} or {}
  note_reported(record, at, events)
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
    if returned > MAX_RETURNED then
      return lose(record, at, 'Its worker was shut down while it ran, again and again.')
    end
  end
  requeue(record, at, delay)
  if how == 'set_apart' then
    call('HSET', job_key(id), 'deaths', math.max(record.deaths, ALONE))
  end
  count('a:handed_back')
  return 'pending'
end
