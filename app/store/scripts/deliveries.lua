-- Webhook deliveries: their keys, how one is made and queued, and how it ends.
-- A delivery is one event of an execution that is to be sent to the execution's `callback`. It is
-- an RQ job, `rq:job:<execution id>-<n>` for the n-th of an execution, in RQ's queue `webhooks`.
-- Its hash has no tenant, so nobody can take it for an execution.
--
-- An unfinished delivery is in UNDELIVERED, and in the queue or in DUE as well. In DUE it waits for
-- its next try, or it is being tried, and its lease ends then. `take_deliveries` begins tries,
-- `note_tries` stores how they went, and `reap` queues what is due.

local UNDELIVERED = 'exec:undelivered'     -- unfinished: id -> since when it is to be sent
local DUE         = 'exec:deliveries-due'  -- unfinished, not queued: id -> when it will be
local WEBHOOKS    = 'webhooks'             -- the queue

-- RQ's `data` of a delivery: as with executions, it only says who does the work.
local DELIVER = '["app.domain.payload.delivery",null,[],{}]'

-- RQ's words for a delivery's status, and ours.
local DELIVERY_WORD = {queued = 'pending', started = 'sending', scheduled = 'waiting',
                       finished = 'delivered', failed = 'failed', canceled = 'stopped'}
local DELIVERY_REGISTRY = {finished = 'rq:finished:webhooks', failed = 'rq:failed:webhooks',
                           canceled = 'rq:canceled:webhooks'}

-- `tries` counts the tries. `before` are those before somebody last asked to send it again.
local DELIVERY_FIELDS = {'status', 'created_at', 'event', 'number', 'tries', 'before', 'token',
                         'started_at'}

local MAX_TRIES_KEPT = 20        -- the fields `try:<n>` of a delivery; older ones are removed
local MAX_DELIVERIES = 10000     -- of one execution

local function delivery_meta(status)
  return '{"status":"' .. DELIVERY_WORD[status] .. '"}'
end

-- The callback of an execution as a table; nil if there is none, or it is unreadable.
local function read_callback(text)
  local read, callback = pcall(cjson.decode, text or '')
  if not read or type(callback) ~= 'table' then return nil end
  return type(callback.url) == 'string' and type(callback.events) == 'table' and callback or nil
end

local function wants(callback, event)
  for _, wanted in ipairs(callback.events) do
    if wanted == event then return not callback.stopped end
  end
  return false
end

-- Puts a delivery into the queue. It raises an error if the queue's key has the wrong type.
local function push_delivery(id, in_front)
  local length = call(in_front and 'LPUSH' or 'RPUSH', queue_key(WEBHOOKS), id)
  call('ZREM', DUE, id)
  if length == 1 then try('SADD', RQ_QUEUES, queue_key(WEBHOOKS)) end  -- `reap` adds it, too
end

-- The same for a transition that must not fail: a refused one is due now, and `reap` tries again.
local function push_in_any_case(id, at, in_front)
  if not pcall(push_delivery, id, in_front) then try('ZADD', DUE, integer(at), id) end
end

-- The number of the next delivery of an execution; nil if it has too many already.
local function next_delivery(execution)
  local number = try('HINCRBY', job_key(execution), 'deliveries', 1)
  if type(number) ~= 'number' or number < 1 then  -- the counter is unreadable
    number = 1
    while call('EXISTS', job_key(execution .. '-' .. number)) == 1 do number = number + 1 end
    call('HSET', job_key(execution), 'deliveries', number)
  end
  return number <= MAX_DELIVERIES and number or nil
end

-- Queues a delivery if the execution's callback wants events of this type. `number` is the event's.
-- The transition that the event reports calls it, so that no crash can come between the two. It
-- raises no error: what cannot be done is reported, and the transition goes on.
local function queue_delivery(record, event, number, at)
  dealt_with('delivery_refused', record.id, function()
    local callback = read_callback(record.callback)
    if not callback then error('Its callback is unreadable.', 0) end
    if not wants(callback, event) then return end
    local n = next_delivery(record.id)
    if not n then error('It has too many deliveries.', 0) end
    local id = record.id .. '-' .. n
    try('UNLINK', job_key(id))
    call('HSET', job_key(id), 'status', 'queued', 'meta', delivery_meta('queued'), 'data', DELIVER,
      'origin', WEBHOOKS, 'created_at', iso(at), 'enqueued_at', iso(at), 'event', event,
      'number', integer(number))
    push_in_any_case(id, at)
    call('ZADD', UNDELIVERED, integer(at), id)
  end)
end

-- Removes a delivery from what is unfinished, and from RQ's registries of such jobs.
local function leave_undelivered(id, tries)
  try('ZREM', SCHEDULED .. WEBHOOKS, id)
  try('ZREM', STARTED .. WEBHOOKS, id .. ':' .. integer(tries + 1))
  call('ZREM', UNDELIVERED, id)
  call('ZREM', DUE, id)
end

-- Ends a delivery. `status` is RQ's word, and `why` a sentence if no try says it.
local function end_delivery(delivery, status, at, why)
  local key = job_key(delivery.id)
  call('HSET', key, 'status', status, 'meta', delivery_meta(status), 'ended_at', iso(at))
  if why then call('HSET', key, 'error', why) end
  call('HDEL', key, 'token')
  try('ZADD', DELIVERY_REGISTRY[status], rq_score(at), delivery.id)
  leave_undelivered(delivery.id, delivery.tries)
  count('wd:' .. DELIVERY_WORD[status])
end

-- Ends an unreadable delivery as failed. Fields that can be read stay.
local function quarantine_delivery(delivery)
  local at, key = now(), job_key(delivery.id)
  if call('TYPE', key).ok ~= 'hash' then call('UNLINK', key) end
  call('HSET', key, 'data', DELIVER, 'origin', WEBHOOKS, 'tries', 0,
    'created_at', iso(delivery.created or at), 'event', delivery.event or 'unknown',
    'number', is_integer(delivery.number or '', FOREVER) and delivery.number or 0)
  call('HDEL', key, 'before')
  local why = 'Its record in the store was unreadable.'
  delivery.tries = 0
  end_delivery(delivery, 'failed', at, why)
  report('delivery_unreadable', delivery.id, why)
end

-- A delivery with its counters as numbers; nil if there is none. An unreadable one ends first.
local function load_delivery(id)
  local values, delivery = try('HMGET', job_key(id), unpack(DELIVERY_FIELDS)), {id = id}
  for i, name in ipairs(DELIVERY_FIELDS) do delivery[name] = not values.err and values[i] or nil end
  if not values.err and not delivery.status and call('EXISTS', job_key(id)) == 0 then return nil end
  delivery.created = microseconds(delivery.created_at)
  delivery.started = microseconds(delivery.started_at)
  local is_readable = DELIVERY_WORD[delivery.status or ''] and delivery.created and delivery.event
    and is_integer(delivery.number or '', FOREVER) and is_counter(delivery.tries)
    and is_counter(delivery.before) and (delivery.started or delivery.status ~= 'started')
  if not is_readable then
    quarantine_delivery(delivery)
    return load_delivery(id)
  end
  delivery.tries, delivery.before = tonumber(delivery.tries or 0), tonumber(delivery.before or 0)
  return delivery
end

-- Stores how a try went: `text` is JSON, see app/store/deliveries.py.
local function keep_try(delivery, text)
  local key, number = job_key(delivery.id), one_more(delivery.tries)
  try('ZREM', STARTED .. WEBHOOKS, delivery.id .. ':' .. integer(number))
  call('HSET', key, 'tries', number, 'try:' .. number, integer(delivery.started) .. ':' .. text)
  if number > MAX_TRIES_KEPT then call('HDEL', key, 'try:' .. number - MAX_TRIES_KEPT) end
  delivery.tries = number
end

-- Removes a delivery whose execution leaves the store, from everywhere.
local function forget_delivery(id)
  local status = ask(false, 'HGET', job_key(id), 'status')
  for _, registry in pairs(DELIVERY_REGISTRY) do try('ZREM', registry, id) end
  if status and not DELIVERY_REGISTRY[status] then
    if status == 'queued' then try('LREM', queue_key(WEBHOOKS), 1, id) end
    local tries = tonumber(ask(false, 'HGET', job_key(id), 'tries') or 0) or 0
    leave_undelivered(id, tries)
    count('wd:expired')
    report('delivery_expired', id, 'Its execution left the store before it was delivered.')
  end
  call('UNLINK', job_key(id))
end
