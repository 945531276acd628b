-- Housekeeping for work that no other process is taking care of. Workers and web processes call it
-- several times a lease; anybody may, at any time.
--   * An expired lease: the next attempt, `cancelled`, or `failed` with `WorkerLost`. But if nobody
--     reaped for a while, the store was away and heartbeats could not arrive: then every lease is
--     extended once.
--   * A delay that is over: into the queue.
--   * Pending for longer than its `expires_in`: `failed` with `Expired`.
--   * Pending, but in no queue: back into the queue (see restore.lua).
--   * Webhook deliveries: see reap_deliveries.lua.
--   * A worker without a heartbeat for three leases: removed from our lists and RQ's.
--   * Ended longer ago than its retention: the record, its outputs and index entries are deleted.
--   * An impossible time, because the store's clock went back: replaced by a possible one.
-- One call holds the store for some milliseconds: each part may use half of the time that is left,
-- and does at least one thing. The next call does the rest, and is due at once. If the store
-- refuses a command for one execution or one part (because a key has the wrong type), that is
-- reported, and tried again after a lease.
-- ARGV: lease in microseconds, retention of completed, of failed, of cancelled executions in
--   microseconds, queues ...
-- Returns the microseconds until more is to be done, if that is known, else -1.

local HOLD_SECONDS = 0.004
local GRACE  = 'exec:grace'   -- after an outage: what leases are extended to, until all are
local FORMAT = 'exec:format'  -- after an upgrade: how far records are rewritten, or `done`

local function last_reap()
  local text = ask(false, 'GET', REAPED) or ''
  return is_integer(text, FOREVER) and tonumber(text) or 0
end

-- RQ's registries of ended executions, of each state and queue.
local function registries_of(queues)
  local registries = {}
  for _, state in ipairs({'completed', 'failed', 'cancelled'}) do
    for i = 1, #queues + 1 do
      local key = REGISTRY[state] .. (queues[i] or 'unknown')  -- see `registry` in prelude.lua
      registries[#registries + 1] = {key = key, state = state}
    end
  end
  return registries
end

-- Moves later times by as much as the clock went back, but not into the past.
local function move_back(key, at, by)
  local later = call('ZRANGEBYSCORE', key, '(' .. integer(at), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1000)
  for i = 1, #later, 2 do
    call('ZADD', key, integer(math.max(at, later[i + 1] - by)), later[i])
  end
end

-- If the store's clock went back, by an hour for example, times written before lie in the future.
local function correct_times(pass)
  local at, last = pass.at, pass.last
  -- Ten leases, because another process may have a different setting for a while.
  lower_scores(LEASES, at + 10 * pass.lease, at + pass.lease)
  lower_scores(WORKERS, at, at)
  lower_scores(DELAYED, at + LONGEST, at + LONGEST)
  for _, registry in ipairs(pass.registries) do lower_scores(registry.key, at, at, rq_score) end
  lower_scores(DUE, at + LONGEST, at + pass.lease)
  lower_scores(UNDELIVERED, at, at)
  if at >= last then return end
  for _, key in ipairs({DELAYED, DUE}) do part(key, move_back, key, at, last - at) end
end

-- Extends leases once after an outage, as many as one call may. Returns whether all are extended.
local function extend_leases(pass)
  local grace = ask(false, 'GET', GRACE) or ''
  local limit = pass.at + pass.lease
  if pass.at - pass.last > pass.lease / 2 then grace = integer(limit) end
  if not is_integer(grace, limit) then return true end
  call('SET', GRACE, grace)
  local ids = call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. grace, 'LIMIT', 0, 2 * BATCH)
  for _, id in ipairs(ids) do call('ZADD', LEASES, grace, id) end
  if #ids == 2 * BATCH then
    pass.more = true
    return false
  end
  call('DEL', GRACE)
  return true
end

-- The workers of one process have the same name up to the first `-`.
local function process_of(worker) return (worker or ''):match('^[^-]*') end

-- Whether other executions ran in the lost worker's process: then nobody knows which one was the
-- cause. Leases that have expired or soon will come first in the set, so the first 500 are enough.
-- A key keeps the answer, because the last of them finds no other lease any more.
local function had_company(pass, record)
  local process = process_of(record.worker_name)
  local known = 'exec:lost:' .. process
  local found = ask(0, 'EXISTS', known) == 1
  for _, id in ipairs(found and {} or call('ZRANGE', LEASES, 0, 499)) do
    local worker = id ~= record.id and ask(false, 'HGET', job_key(id), 'worker_name')
    found = found or worker and process_of(worker) == process
  end
  if found then call('SET', known, 1, 'PX', integer(math.max(1, 10 * pass.lease / 1000))) end
  return found
end

local function expire_lease(pass, id)
  local record = load(id)
  if record and record.state == 'running' then
    local lose_it = had_company(pass, record) and lose_with_others or lose
    local seconds = pass.lease / 1000000
    lose_it(record, pass.at, 'Its worker sent no heartbeat for ' .. seconds .. ' s.', {})
  else
    call('ZREM', LEASES, id)
  end
end

local function enqueue_delayed(pass, id)
  local record = load(id)
  if record and record.state == 'pending' then
    call('RPUSH', queue_key(record.origin), id)
    local version = tell(record, pass.at, 'progress', 'null')  -- its phase has changed
    call('HSET', job_key(id), 'status', 'queued', 'enqueued_at', iso(pass.at), 'version', version)
    try('ZREM', SCHEDULED .. record.origin, id)
  end
  call('ZREM', DELAYED, id)
end

local function expire_waiting(pass, id)
  local record = load(id)
  if record and record.state == 'pending' then
    end_as(record, 'failed', pass.at, expired(record))
  else
    call('ZREM', WAITING, id)
  end
end

local function forget_worker(_, worker)
  local key, all, of_queue = rq_worker(worker)
  if key then
    try('SREM', all, key)
    try('SREM', of_queue, key)
    call('UNLINK', key)
  end
  try('HDEL', SLOTS, worker)
  -- Without its claim number, a claim that the network delivers late takes nothing.
  try('HDEL', CLAIMS, worker:match('[^:]*$'))
  call('ZREM', WORKERS, worker)
end

-- RQ's hash of a worker expires by itself, but RQ's sets keep its name. That happens to a worker
-- that never sent a heartbeat, or whose heartbeats the store lost. Each call checks some names.
local function tidy_worker_set(set)
  for _, worker in ipairs(call('SRANDMEMBER', set, 10)) do
    local is_ours = worker:find('rq:worker:', 1, true) == 1
    if is_ours and call('EXISTS', worker) == 0 then call('SREM', set, worker) end
  end
end

-- Removes attempts from RQ's registry of started jobs that do not run, for example because somebody
-- deleted the record. Each call checks some names.
local function tidy_started(registry)
  for _, name in ipairs(call('ZRANDMEMBER', registry, 10)) do
    local id, attempt = name:match('^(.*):(.-)$')
    local found = id and ask({}, 'HMGET', job_key(id), 'status', 'attempt') or {}
    if found[1] ~= 'started' or found[2] ~= attempt then call('ZREM', registry, name) end
  end
end

local function tidy_rq(queues)
  part(RQ_WORKERS, tidy_worker_set, RQ_WORKERS)
  for _, queue in ipairs(queues) do
    local set = RQ_WORKERS .. ':' .. queue
    part(set, tidy_worker_set, set)
  end
  for _, queue in ipairs(queues) do part(STARTED .. queue, tidy_started, STARTED .. queue) end
end

local function delete_ended(pass, registry)
  local limit = pass.at - pass.retention[registry.state]
  for_each_due(pass, registry.key, limit, function(_, id)
    local record = load(id)
    if not record or record.state == registry.state then
      if record then unindex(record, registry.state) end
      delete_deliveries(id)
      call('UNLINK', job_key(id), data_key(id), outputs_key(id), steps_key(id), values_key(id),
        events_key(id))
    end
    call('ZREM', registry.key, id)
  end, rq_score)
end

-- Rewrites records of an older version after an upgrade (see old.lua). Waiting ones come first,
-- because RQ's tools would take them out of their queue. When all are done, later calls skip this.
local function renew_all(pass)
  local place = call('GET', FORMAT) or '0'
  if place == 'done' then return end
  local time_left = share(pass)
  while place ~= 'ended' do
    local answer = call('ZSCAN', WAITING, place, 'COUNT', 50)
    for i = 1, #answer[2], 2 do part(answer[2][i], load, answer[2][i]) end
    place = answer[1] == '0' and 'ended' or answer[1]
    if not time_left() then break end
  end
  local left = place ~= 'ended'
  for state in pairs(pass.retention) do
    local ids = left and {} or call('ZRANGE', 'exec:ended:' .. state, 0, 49)
    for _, id in ipairs(ids) do
      part(id, load, id)
      call('ZREM', 'exec:ended:' .. state, id)
    end
    left = left or #ids > 0
  end
  call('SET', FORMAT, left and place or 'done')
  pass.more = pass.more or left
end

local function run(ARGV)
  local lease = bounded(ARGV[1], 1, LONGEST)
  local retention = {
    completed = bounded(ARGV[2], 0, LONGEST),
    failed = bounded(ARGV[3], 0, LONGEST),
    cancelled = bounded(ARGV[4], 0, LONGEST),
  }
  local queues = {unpack(ARGV, 5)}
  local at = now()
  local pass = {
    at = at,
    last = last_reap(),
    lease = lease,
    queues = queues,
    retention = retention,
    registries = registries_of(queues),
    ends = os.clock() + HOLD_SECONDS,
    more = false,
    put_last = {},
  }
  call('SET', REAPED, integer(at))
  if stored_format() ~= KNOWN_FORMAT then call('SET', FORMAT_VERSION, KNOWN_FORMAT) end
  -- Which versions of the service use this store: see app/store/functions.py.
  try('HSET', 'exec:libraries', 'executions_@digest@', integer(math.floor(at / 1000000)))
  for _, queue in ipairs(queues) do try('SADD', RQ_QUEUES, queue_key(queue)) end

  correct_times(pass)
  local _, extended = part(LEASES, extend_leases, pass)
  if extended == true then for_each_due(pass, LEASES, at, expire_lease) end
  for_each_due(pass, DELAYED, at, enqueue_delayed)
  for_each_due(pass, WAITING, at, expire_waiting)
  if not part(REPAIR, restore_queues, pass) then call('UNLINK', REPAIR, MISSING) end
  part(UNDELIVERED, reap_deliveries, pass)
  for_each_due(pass, WORKERS, at - 3 * lease, forget_worker)
  tidy_rq({WEBHOOKS, unpack(queues)})
  for _, registry in ipairs(pass.registries) do delete_ended(pass, registry) end
  if not part(FORMAT, renew_all, pass) then call('SET', FORMAT, 'done') end

  if pass.more then return 0 end
  local first = ask({}, 'ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, math.min(LONGEST, first[2] - at)) or -1
end
