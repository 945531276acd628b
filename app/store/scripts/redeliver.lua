-- delivered | failed | stopped | waiting -> pending, at once, because somebody asked for it. Its id
-- stays the same, and it has all its tries again. One that is pending or is being sent stays as it
-- is. If the receiver had answered 410, the execution's deliveries are sent again from now on.
-- ARGV: execution, tenant, number of the delivery.
-- Returns the delivery's status after the call; nothing if the tenant has no such delivery.
local function run(ARGV)
  local execution, tenant, id = ARGV[1], ARGV[2], ARGV[1] .. '-' .. ARGV[3]
  local record = fields_of(execution, {'tenant', 'callback'})
  if not record or record.tenant ~= tenant then return false end
  local callback, delivery = read_callback(record.callback), load_delivery(id)
  if not callback or not delivery or delivery.event == 'unknown' then return false end
  if callback.stopped then
    callback.stopped = nil
    call('HSET', job_key(execution), 'callback', cjson.encode(callback))
  end
  if delivery.status == 'queued' or delivery.status == 'started' then
    return DELIVERY_WORD[delivery.status]
  end
  local at = now()
  call('ZADD', UNDELIVERED, integer(at), id)
  call('HSET', job_key(id), 'status', 'queued', 'meta', delivery_meta('queued'),
    'enqueued_at', iso(at), 'before', delivery.tries)
  call('HDEL', job_key(id), 'ended_at', 'error', 'lost')
  try('ZREM', SCHEDULED .. WEBHOOKS, id)
  if DELIVERY_REGISTRY[delivery.status] then try('ZREM', DELIVERY_REGISTRY[delivery.status], id) end
  push_in_any_case(id, at)
  return 'pending'
end
