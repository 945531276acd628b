-- Records as version 1.0 wrote them before they were RQ jobs in full. Whoever meets one rewrites it, and so does `reap`
-- after an upgrade with all that live or ended. This file goes when nobody upgrades from there any more.

local OLD = {'tenant', 'status', 'type', 'target', 'origin', 'created', 'queued', 'started', 'ended', 'due', 'worker',
             'progress', 'timeout_seconds', 'steps', 'attempt', 'meta'}

local function old_time(text) return text and is_whole(text, FOREVER) and iso(tonumber(text)) or nil end

-- It is in RQ's lists as well from now on, and no longer in those that are read no more.
local function relist(old, state)
  local prefix, of_type = 'exec:index:' .. old.tenant .. ':', ':' .. (old.type or '')
  for _, list in ipairs({'all:all', 'all' .. of_type, 'all' .. of_type .. ':' .. (old.target or ''), state .. ':all'}) do
    call('ZREM', prefix .. list, old.id)
  end
  if not old.origin then return end
  if state == 'running' and old_time(old.started) then
    try('ZADD', STARTED .. old.origin, rq_score(tonumber(old.started)), old.id .. ':' .. (old.attempt or ''))
  elseif state == 'pending' and old_time(old.due) then
    try('ZADD', SCHEDULED .. old.origin, string.format('%.6f', old.due / 1000000), old.id)
  elseif REGISTRY[state] and old_time(old.ended) then
    call('ZADD', registry(state, old.origin), rq_score(tonumber(old.ended)), old.id)
    call('ZREM', 'exec:ended:' .. state, old.id)
  end
end

-- Rewrites a record; false where it is none of these. What makes no sense is left out, and so found by `flaws`.
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
  if state == 'pending' and old.due then set('status', 'scheduled') end
  local progress = state == 'running' and old.progress
  local beaten = is_meta(old.meta, state or '') and old.meta  -- since the upgrade
  if state == 'completed' then progress = '[' .. (old.steps or 1) .. ',' .. (old.steps or 1) .. ',null]' end
  if state then set('meta', beaten or meta(state, progress)) end
  local seconds = is_seconds(old.timeout_seconds or '') and tonumber(old.timeout_seconds)
  if seconds then set('timeout', whole(math.ceil(seconds))) end
  relist(old, state or 'all')
  call('HSET', job_key(old.id), unpack(fields))
  call('HDEL', job_key(old.id), 'created', 'queued', 'started', 'ended', 'worker', 'progress', 'due')
  if seconds == math.floor(seconds or 0) then call('HDEL', job_key(old.id), 'timeout_seconds') end
  return true
end
