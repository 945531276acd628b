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
work_when_full()
local at, lease, said = now(), bounded(ARGV[1], 1, LONGEST), ask(false, 'GET', REAPED) or ''
local last = is_whole(said, FOREVER) and tonumber(said) or 0
local retention = {}
for i, status in ipairs({'completed', 'failed', 'cancelled'}) do retention[status] = bounded(ARGV[i + 1], 0, LONGEST) end
redis.call('SET', REAPED, whole(at))

local GRACE   = 'exec:grace'    -- after an outage: what leases are granted until, while some are still to be
local REPAIR  = 'exec:repair'   -- the step that is next, and where it goes on; see below
local MISSING = 'exec:missing'  -- pending, and not seen in a queue yet: id -> when it was created
local BATCH, more, ends = 200, false, os.clock() + 0.004

local function share() return time_for((ends - os.clock()) / 2) end

local function part(name, act, ...) return dealt_with('reap_refused', name, act, ...) end

-- Calls `act` for each id whose score is at most `limit`. What is refused goes behind those that are due now.
local function each_over(key, limit, act)
  part(key, function()
    local time_left = share()
    local ids = redis.call('ZRANGEBYSCORE', key, '-inf', whole(limit), 'LIMIT', 0, BATCH)
    for i, id in ipairs(ids) do
      if i > 1 and not time_left() then
        more = true
        return
      end
      if not dealt_with('reap_refused', id, act, id) then redis.call('ZADD', key, 'XX', whole(limit + lease), id) end
    end
    more = more or #ids == BATCH
  end)
end

-- Scores over `limit` cannot be true: they become `instead`.
local function bound(key, limit, instead)
  part(key, function()
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. whole(limit), '+inf', 'LIMIT', 0, BATCH)) do
      redis.call('ZADD', key, whole(instead), id)
    end
  end)
end

-- The store's clock may go back, by an hour, say. Then what was written before it did lies in the future. (Ten leases,
-- because the lease of another process may be set to something else for a while.)
bound(LEASES, at + 10 * lease, at + lease)
bound(WORKERS, at, at)
bound(DELAYED, at + LONGEST, at + LONGEST)
for status in pairs(retention) do bound(ENDED .. status, at, at) end
if at < last then
  part(DELAYED, function()  -- each by as much as the clock, but no longer than it takes
    local later = redis.call('ZRANGEBYSCORE', DELAYED, '(' .. whole(at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1000)
    for i = 1, #later, 2 do
      redis.call('ZADD', DELAYED, whole(math.max(at, later[i + 1] - (last - at))), later[i])
    end
  end)
end

-- Grants leases once more, as many as there is time for. Answers whether all are.
local function grant()
  local until_then = ask(false, 'GET', GRACE) or ''
  if at - last > lease / 2 then until_then = whole(at + lease) end
  if not is_whole(until_then, at + lease) then return true end
  redis.call('SET', GRACE, until_then)
  local ids = redis.call('ZRANGEBYSCORE', LEASES, '-inf', '(' .. until_then, 'LIMIT', 0, 2 * BATCH)
  for _, id in ipairs(ids) do redis.call('ZADD', LEASES, until_then, id) end
  if #ids == 2 * BATCH then
    more = true
    return false
  end
  redis.call('DEL', GRACE)
  return true
end

-- Whether others ran in the worker that is gone: then nobody knows which of them is to blame. The names of the workers of
-- one process are the same up to the first `-`. Leases that ran out, or soon will, come first among all; that there was
-- company is kept for the last of them.
local function had_company(record)
  local process = (record.worker or ''):match('^[^-]*')
  local known = 'exec:lost:' .. process
  local found = ask(0, 'EXISTS', known) == 1
  for _, id in ipairs(found and {} or redis.call('ZRANGE', LEASES, 0, 499)) do
    local worker = id ~= record.id and ask(false, 'HGET', job_key(id), 'worker')
    found = found or worker and worker:match('^[^-]*') == process
  end
  if found then redis.call('SET', known, 1, 'PX', whole(math.max(1, 10 * lease / 1000))) end
  return found
end

local granted = false
part(LEASES, function() granted = grant() end)
if granted then
  each_over(LEASES, at, function(id)
    local record = load(id)
    if record and record.status == 'started' then
      local lost = had_company(record) and lose_with_others or lose
      lost(record, at, 'Its worker gave no sign of life for ' .. lease / 1000000 .. ' s.')
    else
      redis.call('ZREM', LEASES, id)
    end
  end)
end

each_over(DELAYED, at, function(id)
  local record = load(id)
  if record and record.status == 'queued' then
    redis.call('RPUSH', queue_key(record.origin), id)
    redis.call('HDEL', job_key(id), 'due')
  end
  redis.call('ZREM', DELAYED, id)
end)

each_over(WAITING, at, function(id)
  local record = load(id)
  if record and record.status == 'queued' then
    end_as(record, 'failed', at, failure(record, 'Expired', 'It was not started within its expires_in.'))
  else
    redis.call('ZREM', WAITING, id)
  end
end)

-- Everything that waits is in a queue or delayed; counting tells whether one fell out, without a scan. Only then the
-- queues are compared with what waits, in steps that go on from call to call:
--   collect  all that wait, and are not delayed
--   compare  takes out those that are in a queue. From each queue's end to its head: others are added and taken at the
--            head meanwhile, and those that are added at the end are not looked for
--   push     what is left, back to the heads of the queues, in order of creation
-- One that is cancelled meanwhile can hide another from `compare`, which is then queued twice: whoever claims it drops
-- the second one.
local function fell_out()
  local held = ask(0, 'ZCARD', DELAYED)
  for i = 5, #ARGV do held = held + ask(0, 'LLEN', queue_key(ARGV[i])) end
  return redis.call('ZCARD', WAITING) > held
end

local function collect(cursor)
  local answer = redis.call('ZSCAN', WAITING, cursor, 'COUNT', 100)
  for i = 1, #answer[2], 2 do
    local id = answer[2][i]
    dealt_with('reap_refused', id, function()
      if ask(false, 'ZSCORE', DELAYED, id) then return end
      local record = load(id)
      if record and record.status == 'queued' then
        redis.call('ZADD', MISSING, record.created, id)
      else
        redis.call('ZREM', WAITING, id)
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
  redis.call('ZREM', MISSING, unpack(ids))
  return 'compare', queue .. ':' .. offset + #ids
end

local function push_back(id)
  local record, known = load(id), false
  if not record or record.status ~= 'queued' or not redis.call('ZSCORE', WAITING, id) then return end
  for i = 5, #ARGV do known = known or ARGV[i] == record.origin end
  if known then
    redis.call('LPUSH', queue_key(record.origin), id)
  else
    quarantine(record, {'origin'})  -- nobody would take it from there
  end
end

local function push()
  local last_created = redis.call('ZPOPMAX', MISSING, 50)
  for i = 1, #last_created, 2 do dealt_with('reap_refused', last_created[i], push_back, last_created[i]) end
  if #last_created > 0 then return 'push', '' end
end

local function repair()
  local time_left, step, place = share(), unpack(redis.call('HMGET', REPAIR, 'step', 'place'))
  if not step then
    if not fell_out() then return end
    redis.call('UNLINK', MISSING)
    step, place = 'collect', '0'
  end
  local steps = {collect = collect, compare = compare, push = push}
  repeat step, place = steps[step](place) until not step or not time_left()
  if step then
    redis.call('HSET', REPAIR, 'step', step, 'place', place)
    more = true
  else
    redis.call('UNLINK', REPAIR)
  end
end
if not part(REPAIR, repair) then redis.call('UNLINK', REPAIR, MISSING) end

each_over(WORKERS, at - 3 * lease, function(worker)
  local key, all, of_queue = rq_worker(worker)
  if key then
    redis.pcall('SREM', all, key)
    redis.pcall('SREM', of_queue, key)
    redis.call('UNLINK', key)
  end
  redis.pcall('HDEL', SLOTS, worker)
  redis.pcall('HDEL', CLAIMS, worker:match('[^:]*$'))  -- a claim of it that is still on its way takes nothing
  redis.call('ZREM', WORKERS, worker)
end)

-- Those that were registered and never beat, or whose beats were lost with the store's last writes: RQ's hash of a worker
-- goes by itself, and the sets keep its name. Some in each call.
local sets = {'rq:workers'}
for i = 5, #ARGV do sets[#sets + 1] = 'rq:workers:' .. ARGV[i] end
for _, set in ipairs(sets) do
  part(set, function()
    for _, worker in ipairs(redis.call('SRANDMEMBER', set, 10)) do
      if worker:find('rq:worker:', 1, true) == 1 and redis.call('EXISTS', worker) == 0 then redis.call('SREM', set, worker) end
    end
  end)
end

for status, kept in pairs(retention) do
  each_over(ENDED .. status, at - kept, function(id)
    local record = load(id)
    if not record or API_WORD[record.status] == status then
      if record then
        unindex(record, 'all')
        unindex(record, status)
      end
      redis.call('UNLINK', job_key(id), data_key(id), outputs_key(id), steps_key(id), values_key(id))
    end
    redis.call('ZREM', ENDED .. status, id)
  end)
end

if more then return 0 end
local next = ask({}, 'ZRANGE', DELAYED, 0, 0, 'WITHSCORES')
return next[2] and math.max(0, math.min(LONGEST, next[2] - at)) or -1
