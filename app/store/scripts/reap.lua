-- What has to happen when nobody else makes it happen; may be called by anyone, at any time, at once.
--   * A lease that ran out: the next attempt, cancelled, or failed with `WorkerLost`. But if nobody reaped
--     for a while, the store was away, and beats could not arrive: every lease is granted once more.
--   * A delay that is over: into the queue.
--   * Pending for longer than its `expires_in`: failed with `Expired`.
--   * Pending, but in no queue (somebody deleted the queue, or popped from it): into the queue again.
--   * A worker that was not heard of for three leases: nobody counts on it any more, nor do RQ's tools.
--   * Ended longer ago than its retention: the record, its outputs and its index entries leave together.
--   * A time that cannot be, because the store's clock went back: one that can.
-- One call holds the store for some milliseconds: each part may use half of what is left of them, and does one thing at
-- least. The rest is done by the next call, which is then due at once. What the store refuses of one execution or one
-- part (somebody else's data is under a key) is reported, and tried again after a lease, behind the others.
-- ARGV: lease in microseconds, retention of completed, of failed, of cancelled ones in microseconds, queues ...
-- Answers the number of microseconds until there is more to do, as far as that is known, or -1.
local function run(ARGV)
  local at, lease, said = now(), bounded(ARGV[1], 1, LONGEST), ask(false, 'GET', REAPED) or ''
  local last = is_whole(said, FOREVER) and tonumber(said) or 0
  local retention, registries, state_of = {}, {}, {}
  for i, state in ipairs({'completed', 'failed', 'cancelled'}) do
    retention[state] = bounded(ARGV[i + 1], 0, LONGEST)
    for place = 5, #ARGV + 1 do
      local key = REGISTRY[state] .. (ARGV[place] or 'unknown')
      registries[#registries + 1], state_of[key] = key, state
    end
  end
  call('SET', REAPED, whole(at))
  try('HSET', 'exec:libraries', 'executions_@digest@', whole(math.floor(at / 1000000)))  -- see app/store/functions.py
  for i = 5, #ARGV do try('SADD', RQ_QUEUES, queue_key(ARGV[i])) end

  local GRACE   = 'exec:grace'    -- after an outage: what leases are granted until, while some are still to be
  local REPAIR  = 'exec:repair'   -- the step that is next, and where it goes on; see below
  local MISSING = 'exec:missing'  -- pending, and not seen in a queue yet: id -> when it came into its queue
  local FORMAT  = 'exec:format'   -- after an upgrade: how far records are rewritten, or `done`
  local BATCH, more, ends = 200, false, os.clock() + 0.004

  local function share() return time_for((ends - os.clock()) / 2) end

  local function part(name, act, ...) return dealt_with('reap_refused', name, act, ...) end

  -- Calls `act` for each id whose time is at most `limit`. What is refused goes behind those that are due now.
  -- `score` is how the list writes times.
  local function each_over(key, limit, act, score)
    score = score or whole
    part(key, function()
      local time_left = share()
      local ids = call('ZRANGEBYSCORE', key, score == whole and '-inf' or score(0), score(limit), 'LIMIT', 0, BATCH)
      for i, id in ipairs(ids) do
        if i > 1 and not time_left() then
          more = true
          return
        end
        if not dealt_with('reap_refused', id, act, id) then call('ZADD', key, 'XX', score(limit + lease), id) end
      end
      more = more or #ids == BATCH
    end)
  end

  -- Scores over `limit` cannot be true: they become `instead`.
  local function bound(key, limit, instead, score)
    score = score or whole
    part(key, function()
      for _, id in ipairs(call('ZRANGEBYSCORE', key, '(' .. score(limit), '+inf', 'LIMIT', 0, BATCH)) do
        call('ZADD', key, score(instead), id)
      end
    end)
  end

  -- The store's clock may go back, by an hour, say. Then what was written before it did lies in the future. (Ten leases,
  -- because the lease of another process may be set to something else for a while.)
  bound(LEASES, at + 10 * lease, at + lease)
  bound(WORKERS, at, at)
  bound(DELAYED, at + LONGEST, at + LONGEST)
  for _, key in ipairs(registries) do bound(key, at, at, rq_score) end
  if at < last then
    part(DELAYED, function()  -- each by as much as the clock, but no longer than it takes
      local later = call('ZRANGEBYSCORE', DELAYED, '(' .. whole(at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1000)
      for i = 1, #later, 2 do
        call('ZADD', DELAYED, whole(math.max(at, later[i + 1] - (last - at))), later[i])
      end
    end)
  end

  -- After an upgrade: rewrites records that an older version wrote, those that wait first, because RQ's tools would take
  -- them out of their queue. Once all are, it says so, and later calls have nothing to do.
  local function renew_all()
    local place = call('GET', FORMAT) or '0'
    if place == 'done' then return end
    local time_left = share()
    while place ~= 'ended' do
      local answer = call('ZSCAN', WAITING, place, 'COUNT', 50)
      for i = 1, #answer[2], 2 do dealt_with('reap_refused', answer[2][i], load, answer[2][i]) end
      place = answer[1] == '0' and 'ended' or answer[1]
      if not time_left() then break end
    end
    local left = place ~= 'ended'
    for state in pairs(retention) do
      local ids = left and {} or call('ZRANGE', 'exec:ended:' .. state, 0, 49)
      for _, id in ipairs(ids) do
        dealt_with('reap_refused', id, load, id)
        call('ZREM', 'exec:ended:' .. state, id)
      end
      left = left or #ids > 0
    end
    call('SET', FORMAT, left and place or 'done')
    more = more or left
  end

  -- Grants leases once more, as many as there is time for. Answers whether all are.
  local function grant()
    local until_then = ask(false, 'GET', GRACE) or ''
    if at - last > lease / 2 then until_then = whole(at + lease) end
    if not is_whole(until_then, at + lease) then return true end
    call('SET', GRACE, until_then)
    local ids = call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. until_then, 'LIMIT', 0, 2 * BATCH)
    for _, id in ipairs(ids) do call('ZADD', LEASES, until_then, id) end
    if #ids == 2 * BATCH then
      more = true
      return false
    end
    call('DEL', GRACE)
    return true
  end

  -- Whether others ran in the worker that is gone: then nobody knows which of them was the cause. The names of the
  -- workers of one process are the same up to the first `-`. Leases that ran out, or soon will, come first among all; that
  -- there was company is kept for the last of them.
  local function had_company(record)
    local process = (record.worker_name or ''):match('^[^-]*')
    local known = 'exec:lost:' .. process
    local found = ask(0, 'EXISTS', known) == 1
    for _, id in ipairs(found and {} or call('ZRANGE', LEASES, 0, 499)) do
      local worker = id ~= record.id and ask(false, 'HGET', job_key(id), 'worker_name')
      found = found or worker and worker:match('^[^-]*') == process
    end
    if found then call('SET', known, 1, 'PX', whole(math.max(1, 10 * lease / 1000))) end
    return found
  end

  local granted = false
  part(LEASES, function() granted = grant() end)
  if granted then
    each_over(LEASES, at, function(id)
      local record = load(id)
      if record and record.state == 'running' then
        local lost = had_company(record) and lose_with_others or lose
        lost(record, at, 'Its worker gave no sign of life for ' .. lease / 1000000 .. ' s.', {})
      else
        call('ZREM', LEASES, id)
      end
    end)
  end

  each_over(DELAYED, at, function(id)
    local record = load(id)
    if record and record.state == 'pending' then
      call('RPUSH', queue_key(record.origin), id)
      call('HSET', job_key(id), 'status', 'queued', 'enqueued_at', iso(at))
      try('ZREM', SCHEDULED .. record.origin, id)
    end
    call('ZREM', DELAYED, id)
  end)

  each_over(WAITING, at, function(id)
    local record = load(id)
    if record and record.state == 'pending' then
      end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
    else
      call('ZREM', WAITING, id)
    end
  end)

  -- Everything that waits is in a queue or delayed; counting tells whether one fell out, without a scan. Only then the
  -- queues are compared with what waits, in steps that go on from call to call:
  --   collect  all that wait, and are not delayed
  --   compare  takes out those that are in a queue. From each queue's end to its head: others are added and taken at the
  --            head meanwhile, and those that are added at the end are not looked for
  --   push     what is left, back to its place in its queue, the oldest first
  -- One that is cancelled meanwhile can hide another from `compare`, which is then queued twice: whoever claims it drops
  -- the second one.
  local function fell_out()
    local held = ask(0, 'ZCARD', DELAYED)
    for i = 5, #ARGV do held = held + ask(0, 'LLEN', queue_key(ARGV[i])) end
    return call('ZCARD', WAITING) > held
  end

  local function collect(cursor)
    local answer = call('ZSCAN', WAITING, cursor, 'COUNT', 100)
    for i = 1, #answer[2], 2 do
      local id = answer[2][i]
      dealt_with('reap_refused', id, function()
        if ask(false, 'ZSCORE', DELAYED, id) then return end
        local record = load(id)
        if record and record.state == 'pending' then
          call('ZADD', MISSING, whole(record.enqueued), id)
        else
          call('ZREM', WAITING, id)
        end
      end)
    end
    if answer[1] ~= '0' then return 'collect', answer[1] end
    return 'compare', '5:0'
  end

  local function compare(place)
    local queue, offset = place:match('^(%d+):(%d+)$')
    if not ARGV[tonumber(queue)] then return 'push', '' end
    local ids = ask({}, 'LRANGE', queue_key(ARGV[tonumber(queue)]), -(offset + 500), -(offset + 1))
    if #ids == 0 then return 'compare', queue + 1 .. ':0' end
    call('ZREM', MISSING, unpack(ids))
    return 'compare', queue .. ':' .. offset + #ids
  end

  local function enqueued(id) return microseconds(ask(false, 'HGET', job_key(id), 'enqueued_at') or '') or 0 end

  -- Behind all that came into the queue before it. The place is sought by halving: queues are in order, apart from what
  -- was handed back to their heads.
  local ends_with = {}  -- by queue: what this call has put at its end
  local function put_in_place(queue, id, time)
    local length = call('LLEN', queue)
    local before, after = 0, length  -- so many of the queue are before it, at least and at most
    if length > 0 then
      local last = call('LINDEX', queue, -1)
      if last == ends_with[queue] or enqueued(last) <= time then before = length end
    end
    while before < after do
      local middle = math.floor((before + after) / 2)
      if enqueued(call('LINDEX', queue, middle)) <= time then before = middle + 1 else after = middle end
    end
    if before == length then
      call('RPUSH', queue, id)
      ends_with[queue] = id
    elseif before == 0 then
      call('LPUSH', queue, id)
    else
      call('LINSERT', queue, 'AFTER', call('LINDEX', queue, before - 1), id)
    end
  end

  local function push_back(id, time)
    local record, known = fields_of(id, {'tenant', 'status', 'origin'}), false
    if not record or API_WORD[record.status] ~= 'pending' or not call('ZSCORE', WAITING, id) then return end
    for i = 5, #ARGV do known = known or ARGV[i] == record.origin end
    if known then
      put_in_place(queue_key(record.origin), id, time)
    else
      quarantine(load(id), {'origin'})  -- nobody would take it from there
    end
  end

  local function push()
    local oldest = call('ZPOPMIN', MISSING, 50)
    for i = 1, #oldest, 2 do dealt_with('reap_refused', oldest[i], push_back, oldest[i], tonumber(oldest[i + 1])) end
    if #oldest > 0 then return 'push', '' end
  end

  local function repair()
    local time_left, step, place = share(), unpack(call('HMGET', REPAIR, 'step', 'place'))
    if not step then
      if not fell_out() then return end
      call('UNLINK', MISSING)
      step, place = 'collect', '0'
    end
    local steps = {collect = collect, compare = compare, push = push}
    repeat step, place = steps[step](place) until not step or not time_left()
    if step then
      call('HSET', REPAIR, 'step', step, 'place', place)
      more = true
    else
      call('UNLINK', REPAIR)
    end
  end
  if not part(REPAIR, repair) then call('UNLINK', REPAIR, MISSING) end

  each_over(WORKERS, at - 3 * lease, function(worker)
    local key, all, of_queue = rq_worker(worker)
    if key then
      try('SREM', all, key)
      try('SREM', of_queue, key)
      call('UNLINK', key)
    end
    try('HDEL', SLOTS, worker)
    try('HDEL', CLAIMS, worker:match('[^:]*$'))  -- a claim of it that is still on its way takes nothing
    call('ZREM', WORKERS, worker)
  end)

  -- Those that were registered and never beat, or whose beats were lost with the store's last writes: RQ's hash of a worker
  -- goes by itself, and the sets keep its name. Some in each call.
  local sets = {RQ_WORKERS}
  for i = 5, #ARGV do sets[#sets + 1] = RQ_WORKERS .. ':' .. ARGV[i] end
  for _, set in ipairs(sets) do
    part(set, function()
      for _, worker in ipairs(call('SRANDMEMBER', set, 10)) do
        if worker:find('rq:worker:', 1, true) == 1 and call('EXISTS', worker) == 0 then call('SREM', set, worker) end
      end
    end)
  end

  -- What RQ's registry of started jobs should not name: an attempt whose record was deleted, say. Some in each call.
  for i = 5, #ARGV do
    part(STARTED .. ARGV[i], function()
      for _, name in ipairs(call('ZRANDMEMBER', STARTED .. ARGV[i], 10)) do
        local id, attempt = name:match('^(.*):(.-)$')
        local found = id and ask({}, 'HMGET', job_key(id), 'status', 'attempt') or {}
        if found[1] ~= 'started' or found[2] ~= attempt then call('ZREM', STARTED .. ARGV[i], name) end
      end
    end)
  end

  for _, key in ipairs(registries) do
    local state = state_of[key]
    each_over(key, at - retention[state], function(id)
      local record = load(id)
      if not record or record.state == state then
        if record then unindex(record, state) end
        call('UNLINK', job_key(id), data_key(id), outputs_key(id), steps_key(id), values_key(id))
      end
      call('ZREM', key, id)
    end, rq_score)
  end

  if not part(FORMAT, renew_all) then call('SET', FORMAT, 'done') end

  if more then return 0 end
  local next = ask({}, 'ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
  return next[2] and math.max(0, math.min(LONGEST, next[2] - at)) or -1
end
