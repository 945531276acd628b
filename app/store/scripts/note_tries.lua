-- sending -> delivered | failed | waiting | pending, by the worker that holds the token of the try.
-- With a stale token nothing changes, so a late or repeated call does no harm.
-- `how` a try ended is one of:
--   `delivered`  the receiver accepted it
--   `again`      it is tried again after the delay
--   `failed`     no try is left
--   `gone`       the receiver answered 410: this one has failed, and the others of this execution are
--                not sent, until somebody asks for one of them to be sent again
--   `returned`   the worker did not try: it goes back, to the front of the queue or after the delay
-- ARGV: for each: id, token, how, delay in microseconds, how the receiver answered (`2xx`, `none`
--   ..., for the counters), the try as JSON.
-- Returns a word for each: `ok` or `lost`.

-- No later delivery of the execution is sent.
local function stop_callback(id)
  local key = job_key(id:match('^(.*)%-%d+$') or '')
  local callback = read_callback(ask(false, 'HGET', key, 'callback'))
  if callback then
    callback.stopped = true
    call('HSET', key, 'callback', cjson.encode(callback))
  end
end

local function postpone(delivery, at, delay)
  local key, due = job_key(delivery.id), at + delay
  call('ZADD', DUE, integer(due), delivery.id)
  local score = string.format('%.6f', due / 1000000)
  try('ZADD', SCHEDULED .. WEBHOOKS, score, delivery.id)
  call('HSET', key, 'status', 'scheduled', 'meta', delivery_meta('scheduled'),
    'enqueued_at', iso(due))
end

local function give_back(delivery, at, delay)
  local attempt = delivery.id .. ':' .. integer(delivery.tries + 1)
  try('ZREM', STARTED .. WEBHOOKS, attempt)
  if delay > 0 then return postpone(delivery, at, delay) end
  call('HSET', job_key(delivery.id), 'status', 'queued', 'meta', delivery_meta('queued'))
  push_in_any_case(delivery.id, at, true)
end

local function note(id, token, how, delay, answered, text)
  local at, delivery = now(), load_delivery(id)
  if not delivery or delivery.status ~= 'started' or delivery.token ~= token then return 'lost' end
  call('HDEL', job_key(id), 'token')
  if how == 'returned' then
    give_back(delivery, at, delay)
    return 'ok'
  end
  keep_try(delivery, text)
  count('wt:' .. answered)
  if how == 'again' then
    postpone(delivery, at, delay)
  else
    if how == 'gone' then stop_callback(id) end
    end_delivery(delivery, how == 'delivered' and 'finished' or 'failed', at)
  end
  return 'ok'
end

local function run(ARGV)
  local answers = {}
  for i = 1, #ARGV, 6 do
    local id, token, how, delay, answered, text = unpack(ARGV, i, i + 5)
    delay = bounded(delay, 0, LONGEST)
    local done, word =
      dealt_with('delivery_refused', id, note, id, token, how, delay, answered, text)
    answers[#answers + 1] = done and word or 'lost'  -- its lease expires
  end
  return answers
end
