-- Puts pending executions back into their queue if they are in none: somebody deleted the queue, or
-- popped from it. `reap` calls `restore_queues`.
--
-- Every pending execution is in a queue or delayed, so counting shows whether one is missing,
-- without a scan. Only then the queues are compared with the waiting ones, in steps that continue
-- from call to call:
--   collect  all that wait and are not delayed
--   compare  removes those that are in a queue. It reads each queue from its end to its front:
--            meanwhile others are added and taken at the front, and those that are added at the end
--            are not among the collected
--   push     puts the rest back to their places in their queues, the oldest first
-- One that is cancelled meanwhile can hide another one from `compare`, which is then queued twice:
-- the worker that claims it drops the second entry.

local REPAIR  = 'exec:repair'   -- a hash: `step` is the next step, `place` where it continues
local MISSING = 'exec:missing'  -- collected, not seen in a queue yet: id -> when it was enqueued

-- Places number the queues from 5, as earlier versions did: a repair may continue over an upgrade.
local FIRST_QUEUE = 5

local function is_one_missing(pass)
  local held = ask(0, 'ZCARD', DELAYED)
  for _, queue in ipairs(pass.queues) do held = held + ask(0, 'LLEN', queue_key(queue)) end
  return call('ZCARD', WAITING) > held
end

local function collect_one(id)
  if ask(false, 'ZSCORE', DELAYED, id) then return end
  local record = load(id)
  if record and record.state == 'pending' then
    call('ZADD', MISSING, integer(record.enqueued), id)
  else
    call('ZREM', WAITING, id)
  end
end

local function collect(_, cursor)
  local answer = call('ZSCAN', WAITING, cursor, 'COUNT', 100)
  local next_cursor, pairs_found = answer[1], answer[2]
  for i = 1, #pairs_found, 2 do part(pairs_found[i], collect_one, pairs_found[i]) end
  if next_cursor ~= '0' then return 'collect', next_cursor end
  return 'compare', FIRST_QUEUE .. ':0'
end

local function compare(pass, place)
  local number, offset = place:match('^(%d+):(%d+)$')
  local queue = pass.queues[tonumber(number) - FIRST_QUEUE + 1]
  if not queue then return 'push', '' end
  local ids = ask({}, 'LRANGE', queue_key(queue), -(offset + 500), -(offset + 1))
  if #ids == 0 then return 'compare', number + 1 .. ':0' end
  call('ZREM', MISSING, unpack(ids))
  return 'compare', number .. ':' .. offset + #ids
end

local function enqueued(id)
  return microseconds(ask(false, 'HGET', job_key(id), 'enqueued_at') or '') or 0
end

-- Inserts the id behind all that were enqueued before it. A binary search finds the place: a queue
-- is in order, apart from executions that workers gave back to its front.
local function put_in_place(pass, queue, id, time)
  local length = call('LLEN', queue)
  local before, after = 0, length  -- at least, and at most, this many entries come before it
  if length > 0 then
    local last = call('LINDEX', queue, -1)
    -- This call inserts the oldest first, so what it has put at the end itself is older.
    if last == pass.put_last[queue] or enqueued(last) <= time then before = length end
  end
  while before < after do
    local middle = math.floor((before + after) / 2)
    local is_older = enqueued(call('LINDEX', queue, middle)) <= time
    if is_older then before = middle + 1 else after = middle end
  end
  if before == length then
    call('RPUSH', queue, id)
    pass.put_last[queue] = id
  elseif before == 0 then
    call('LPUSH', queue, id)
  else
    call('LINSERT', queue, 'AFTER', call('LINDEX', queue, before - 1), id)
  end
end

local function push_back(pass, id, time)
  local record, is_known = fields_of(id, {'tenant', 'status', 'origin'}), false
  local is_pending = record and API_WORD[record.status] == 'pending'
  if not is_pending or not call('ZSCORE', WAITING, id) then return end
  for _, queue in ipairs(pass.queues) do is_known = is_known or queue == record.origin end
  if is_known then
    put_in_place(pass, queue_key(record.origin), id, time)
  else
    quarantine(load(id), {'origin'})  -- no worker takes from that queue
  end
end

local function push(pass)
  local oldest = call('ZPOPMIN', MISSING, 50)
  for i = 1, #oldest, 2 do
    local id, time = oldest[i], tonumber(oldest[i + 1])
    part(id, push_back, pass, id, time)
  end
  if #oldest > 0 then return 'push', '' end
end

local function restore_queues(pass)
  local time_left, step, place = share(pass), unpack(call('HMGET', REPAIR, 'step', 'place'))
  if not step then
    if not is_one_missing(pass) then return end
    call('UNLINK', MISSING)
    step, place = 'collect', '0'
  end
  local steps = {collect = collect, compare = compare, push = push}
  repeat step, place = steps[step](pass, place) until not step or not time_left()
  if step then
    call('HSET', REPAIR, 'step', step, 'place', place)
    pass.more = true
  else
    call('UNLINK', REPAIR)
  end
end
