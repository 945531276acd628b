-- Rewrites records of the formats 1 to 4, which early builds of version 1.0 wrote before records were
-- complete RQ jobs. tests/store/formats has a store of each.
-- `load` calls it for a record that it meets, and after an upgrade `reap` calls it for all records
-- that wait or have ended. Delete this file when nobody upgrades from such a version any more.

do
local OLD = {'tenant', 'status', 'type', 'target', 'origin', 'created', 'queued', 'started',
             'ended', 'due', 'worker', 'progress', 'timeout_seconds', 'steps', 'attempt', 'meta'}

-- Formats 1 and 2 kept the request in the record, and format 2 small outputs, too.
local function move_out(id)
  for field, key in pairs({data = data_key(id), outputs = outputs_key(id)}) do
    local value = call('HGET', job_key(id), field)
    if value and value ~= CALL then call('SET', key, value, 'NX') end
  end
  call('HDEL', job_key(id), 'outputs')
end

-- Whether the next attempt waits for a set time. Formats 1 and 2 noted this in the list alone.
local function is_delayed(old)
  return old.due or call('ZSCORE', DELAYED, old.id)
end

-- Old records hold microseconds since 1970. Returns the time as RQ writes it, or nil.
local function old_time(text)
  return text and is_integer(text, FOREVER) and iso(tonumber(text)) or nil
end

-- Adds the execution to RQ's lists, and removes it from lists that this version does not read.
local function relist(old, state)
  local prefix, of_type = 'exec:index:' .. old.tenant .. ':', ':' .. (old.type or '')
  local of_target = of_type .. ':' .. (old.target or '')
  for _, list in ipairs({'all:all', 'all' .. of_type, 'all' .. of_target, state .. ':all'}) do
    call('ZREM', prefix .. list, old.id)
  end
  if not old.origin then return end
  if state == 'running' and old_time(old.started) then
    local name = old.id .. ':' .. (old.attempt or '')
    try('ZADD', STARTED .. old.origin, rq_score(tonumber(old.started)), name)
  elseif state == 'pending' and is_delayed(old) then
    local due = call('ZSCORE', DELAYED, old.id) or old.due
    try('ZADD', SCHEDULED .. old.origin, string.format('%.6f', due / 1000000), old.id)
  elseif REGISTRY[state] and old_time(old.ended) then
    call('ZADD', registry(state, old.origin), rq_score(tonumber(old.ended)), old.id)
    call('ZREM', 'exec:ended:' .. state, old.id)
  end
end

-- Rewrites a record; returns false if it is not an old one. Unreadable fields are left out, so that
-- `flaws` finds them.
function renew(record)
  local old = fields_of(record.id, OLD)
  if not old or not old.created then return false end
  local state, fields = API_WORD[old.status or ''], {'data', CALL}
  local function set(name, value)
    if value then fields[#fields + 1], fields[#fields + 2] = name, value end
  end
  set('created_at', old_time(old.created))
  set('enqueued_at', old_time(old.queued) or old_time(old.created))
  set('started_at', old_time(old.started))
  set('ended_at', old_time(old.ended))
  set('worker_name', old.worker)
  if state == 'pending' and is_delayed(old) then set('status', 'scheduled') end
  local progress = state == 'running' and old.progress
  -- A heartbeat since the upgrade has already written `meta`, and knows the latest progress.
  local beaten = is_meta(old.meta, state or '') and old.meta
  if state == 'completed' then progress = all_done(old) end
  if state then set('meta', beaten or meta(state, progress)) end
  local seconds = is_seconds(old.timeout_seconds or '') and tonumber(old.timeout_seconds)
  if seconds then set('timeout', integer(math.ceil(seconds))) end
  relist(old, state or 'all')
  move_out(old.id)
  call('HSET', job_key(old.id), unpack(fields))
  call('HDEL', job_key(old.id), 'created', 'queued', 'started', 'ended', 'worker', 'progress',
    'due')
  -- RQ's `timeout` has full seconds; only a fraction needs the field beside it.
  if seconds == math.floor(seconds or 0) then call('HDEL', job_key(old.id), 'timeout_seconds') end
  return true
end
end
