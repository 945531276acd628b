-- The part of `reap` that takes care of webhook deliveries.

local RESTORED = 'exec:deliveries-repair'  -- where `restore_deliveries` continues

-- So many tries that were lost with their worker do not count: the delivery was not the cause.
local MAX_LOST = 10

-- After so many it has failed: perhaps it is what makes workers die, and they die of it no more.
local MOST_LOST = 20
local LOST_TRY = '[null,"The worker ended before it noted an answer.",%.3f,""]'

-- Returns how many tries were lost since somebody last asked for the delivery.
local function lose_try(delivery, at)
  local key = job_key(delivery.id)
  keep_try(delivery, string.format(LOST_TRY, (at - delivery.started) / 1000000))
  local lost = ask(0, 'HINCRBY', key, 'lost', 1)
  if lost <= MAX_LOST then call('HSET', key, 'before', one_more(delivery.before)) end
  call('HDEL', key, 'token')
  count('wt:lost')
  return lost
end

-- Queues a delivery whose next try is due, or whose worker let its lease expire.
local function enqueue_delivery(pass, id)
  local delivery = load_delivery(id)
  if not delivery or DELIVERY_REGISTRY[delivery.status] then
    call('ZREM', UNDELIVERED, id)
    call('ZREM', DUE, id)
    return
  end
  if delivery.status == 'started' and lose_try(delivery, pass.at) >= MOST_LOST then
    end_delivery(delivery, 'failed', pass.at)
    return
  end
  call('HSET', job_key(id), 'status', 'queued', 'meta', delivery_meta('queued'),
    'enqueued_at', iso(pass.at))
  try('ZREM', SCHEDULED .. WEBHOOKS, id)
  push_delivery(id)
end

-- Brings back one that is neither in the queue nor due. One that is far back in the queue may be
-- queued twice: then its second entry is dropped.
local function restore_delivery(pass, id)
  if ask(false, 'ZSCORE', DUE, id) then return end
  local delivery = load_delivery(id)
  if not delivery or DELIVERY_REGISTRY[delivery.status] then
    call('ZREM', UNDELIVERED, id)
  elseif delivery.status ~= 'queued' then
    call('ZADD', DUE, integer(pass.at), id)
  elseif not ask(false, 'LPOS', queue_key(WEBHOOKS), id, 'MAXLEN', 1000) then
    push_delivery(id)
  end
end

-- Counting shows whether any is missing, because somebody deleted the queue, for example. Only then
-- all are looked at, over as many calls as it takes.
local function restore_deliveries(pass)
  local place = ask(false, 'GET', RESTORED)
  if not place then
    local held = call('LLEN', queue_key(WEBHOOKS)) + call('ZCARD', DUE)
    if call('ZCARD', UNDELIVERED) <= held then return end
    place = '0'
  end
  local time_left = share(pass)
  repeat
    local answer = call('ZSCAN', UNDELIVERED, place, 'COUNT', 50)
    for i = 1, #answer[2], 2 do part(answer[2][i], restore_delivery, pass, answer[2][i]) end
    place = answer[1]
  until place == '0' or not time_left()
  if place == '0' then
    call('UNLINK', RESTORED)
  else
    call('SET', RESTORED, place)
    pass.more = true
  end
end

-- Removes ended deliveries whose execution is gone, because somebody deleted its record by hand.
-- Each call checks some.
local function tidy_deliveries(registry)
  for _, id in ipairs(call('ZRANDMEMBER', registry, 10)) do
    if call('EXISTS', job_key(id:match('^(.*)%-%d+$') or '')) == 0 then forget_delivery(id) end
  end
end

-- Removes the deliveries of an execution that leaves the store.
local function delete_deliveries(execution)
  local total = ask(false, 'HGET', job_key(execution), 'deliveries')
  if not total or not is_counter(total) then return end
  for number = 1, math.min(tonumber(total), MAX_DELIVERIES) do
    part(execution, forget_delivery, execution .. '-' .. number)
  end
end

local function reap_deliveries(pass)
  for_each_due(pass, DUE, pass.at, enqueue_delivery)
  if not part(UNDELIVERED, restore_deliveries, pass) then try('UNLINK', RESTORED) end
  if ask(0, 'ZCARD', UNDELIVERED) > 0 then try('SADD', RQ_QUEUES, queue_key(WEBHOOKS)) end
  for _, registry in pairs(DELIVERY_REGISTRY) do part(registry, tidy_deliveries, registry) end
end
