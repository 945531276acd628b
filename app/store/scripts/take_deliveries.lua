-- pending -> sending. Takes up to `count` deliveries from the front of the queue, and begins a try
-- of each, with a lease. A worker calls it when it has free places.
-- It needs no fence as `claim` does: if the reply is lost, the leases expire, and the deliveries are
-- sent then. An entry that is not pending is dropped. One whose execution has left the store ends as
-- failed; one whose receiver has answered 410 ends as stopped.
-- ARGV: token (another one for each call), worker, count, lease in microseconds.
-- Returns a list of {id, execution, tenant, url, event, its number, created in microseconds, tries
-- since it was last asked for, now in microseconds}.
local MAX_ENTRIES = 1000

local function begin(id, token, worker, at, lease)
  local delivery = load_delivery(id)
  if not delivery or delivery.status ~= 'queued' then return nil end
  local execution = id:match('^(.*)%-%d+$') or ''
  local record = fields_of(execution, {'tenant', 'callback'})
  local callback = record and read_callback(record.callback)
  if not callback then
    local why = record and 'The callback of its execution is unreadable.'
      or 'Its execution has left the store.'
    end_delivery(delivery, 'failed', at, why)
    return nil
  end
  if callback.stopped then
    end_delivery(delivery, 'canceled', at, 'The receiver has answered 410 (Gone) to another one.')
    return nil
  end
  call('ZADD', DUE, integer(at + lease), id)
  local attempt = integer(delivery.tries + 1)
  call('HSET', job_key(id), 'status', 'started', 'meta', delivery_meta('started'), 'token', token,
    'worker_name', worker, 'started_at', iso(at), 'attempt', attempt)
  try('ZADD', STARTED .. WEBHOOKS, rq_score(at), id .. ':' .. attempt)
  return {id, execution, record.tenant, callback.url, delivery.event, delivery.number,
    integer(delivery.created), tostring(delivery.tries - delivery.before), integer(at)}
end

local function run(ARGV)
  local token, worker = ARGV[1], ARGV[2]
  local most, lease = bounded(ARGV[3], 0, MAX_ENTRIES), bounded(ARGV[4], 1, LONGEST)
  if most < 1 then return {} end
  local at, taken, passed, time_left = now(), {}, 0, time_for(0.005)
  call('ZCARD', DUE)  -- if the key has the wrong type, this fails before anything leaves the queue
  local ids = call('LRANGE', queue_key(WEBHOOKS), 0, most - 1)
  for i, id in ipairs(ids) do
    if not time_left() then break end
    local done, row = dealt_with('delivery_refused', id, begin, id, token, worker, at, lease)
    if not done then call('ZADD', DUE, integer(at + lease), id) end  -- tried again then
    if done and row then taken[#taken + 1] = row end
    passed = i
  end
  if passed > 0 then call('LPOP', queue_key(WEBHOOKS), passed) end
  return taken
end
