-- Reads what a pending execution waits for, at one instant. The web side calls it for the status of
-- a pending execution, and for no other.
-- The running executions of a queue are counted in RQ's registry, and not taken from the workers'
-- heartbeats, which may be seconds old.
-- ARGV: id, lease in microseconds.
-- Returns {queue, when it is due in microseconds or '', how many are before it in the queue or -1,
-- running executions of the queue, slots of its live workers, live workers}; nothing if it is not
-- pending any more.
local MOST_BEFORE = 1000  -- farther back in the queue, its place is not looked for

local function run(ARGV)
  local id, lease = ARGV[1], bounded(ARGV[2], 1, LONGEST)
  local record = ask({}, 'HMGET', job_key(id), 'status', 'origin')
  local queue = record[2]
  if API_WORD[record[1] or ''] ~= 'pending' or not queue then return false end
  local due = ask(false, 'ZSCORE', DELAYED, id) or ''
  -- One that is due is queued by the next reap, so it waits for what the queue waits for.
  due = due ~= '' and tonumber(due) > now() and integer(tonumber(due)) or ''
  local before = due == '' and ask(false, 'LPOS', queue_key(queue), id, 'MAXLEN', MOST_BEFORE)
  local slots, workers = 0, 0
  for _, worker in ipairs(ask({}, 'ZRANGEBYSCORE', WORKERS, integer(now() - lease), '+inf')) do
    if worker:match('^([^:]*):') == queue then
      workers = workers + 1
      local all = (ask(false, 'HGET', SLOTS, worker) or ''):match('/(%d+)$')
      slots = slots + (all and tonumber(all) or 0)
    end
  end
  return {queue, due, before or -1, ask(0, 'ZCARD', STARTED .. queue), slots, workers}
end
