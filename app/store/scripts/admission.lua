-- Decides whether a new execution is accepted. `submit` calls it before it stores anything.
-- `rules` is a table with `tenant`, `queue` and, if they are in force:
--   key, digest, ttl   an idempotency key, the digest of its body, how many milliseconds it is kept
--   type, retry_of     with a key: the rest of the receipt that a repeat gets
--   max_unfinished     how many executions of the tenant may be pending or running
--   max_length         how many executions may be in the queue
--   max_age            how many microseconds the oldest of them may have waited
--   max_copied         how many bytes retries of the tenant may have copied; for a retry only

local function idempotency_key(rules)
  return 'exec:idempotency:' .. rules.tenant .. ':' .. rules.key
end

-- The receipt of the first start with this key, or `reused` if that had another body; nil if there
-- was none.
local function earlier(rules)
  if not rules.key then return nil end
  local first = call('HMGET', idempotency_key(rules), 'id', 'created', 'digest')
  if not first[1] or not is_integer(first[2] or '', FOREVER) then return nil end
  if first[3] ~= rules.digest then return {'reused'} end
  return {'replayed', first[1], first[2]}
end

-- The key has its own time to live, so it works after the execution has left the store.
local function remember(rules, id, created)
  if not rules.key then return end
  call('HSET', idempotency_key(rules), 'id', id, 'created', created, 'digest', rules.digest,
    'type', rules.type, 'retry_of', rules.retry_of)
  call('PEXPIRE', idempotency_key(rules), integer(rules.ttl))
end

-- How many executions of the tenant are pending or running; -1 if there is no limit.
local function unfinished(rules)
  if not rules.max_unfinished then return -1 end
  local prefix, sum = 'exec:index:' .. rules.tenant .. ':', 0
  for state in pairs(LIVING) do
    local agents = call('ZCARD', prefix .. state .. ':agent')
    sum = sum + agents + call('ZCARD', prefix .. state .. ':pipeline')
  end
  return sum
end

-- When the oldest execution of the queue that was never started was created. Those that came back
-- to the front are older but did not wait all that time: they are skipped. Looks at 100 entries.
local function waits_since(queue)
  for place = 0, 99 do
    local id = call('LINDEX', queue_key(queue), place)
    if not id then return nil end
    local record = try('HMGET', job_key(id), 'attempt', 'created_at')
    local created = not record.err and not record[1] and microseconds(record[2])
    if created then return created end
  end
end

-- Fails if a limit is not a number, before anything is stored.
local function checked(rules)
  for _, name in ipairs({'max_unfinished', 'max_length', 'max_age'}) do
    rules[name] = rules[name] and bounded(rules[name], 0, FOREVER)
  end
  if rules.key then rules.ttl = bounded(rules.ttl, 1, LONGEST / 1000) end
  return rules
end

-- The limit that is reached, or nil.
local function refusal(rules, at, unfinished_now)
  if rules.max_unfinished and unfinished_now >= rules.max_unfinished then
    return {'too_many_unfinished'}
  end
  local queue = rules.queue
  if rules.max_length and call('LLEN', queue_key(queue)) >= rules.max_length then
    return {'queue_full'}
  end
  if rules.max_age and at - (waits_since(queue) or at) > rules.max_age then
    return {'queue_full'}
  end
end

-- A hash of what the retries of a tenant have copied and still hold: id -> bytes, the sum under ''.
-- Smaller retries are not counted, because they cost no more than a start. So there are few
-- entries, and a recount is short.
local COUNTED_FROM = 65536
local function copied_key(rules) return 'exec:copied:' .. rules.tenant end

local function bytes_of(hash)
  if ask(0, 'HLEN', hash) > 2000 then
    return ask(0, 'MEMORY', 'USAGE', hash)  -- an estimate from samples: exact sums take too long
  end
  local names, bytes = ask({}, 'HKEYS', hash), 0
  for _, name in ipairs(names) do bytes = bytes + #name + call('HSTRLEN', hash, name) end
  return bytes
end

-- How many bytes a retry copies: its `data`, and the steps and outputs of `source`, if any.
local function bytes_to_copy(rules, data, source)
  if not rules.max_copied then return 0 end
  local bytes = #data
  if source ~= '' then
    bytes = bytes + bytes_of(steps_key(source)) + bytes_of(values_key(source))
  end
  return bytes < COUNTED_FROM and 0 or bytes
end

-- Removes the retries that have left the store from the hash, and returns the new sum.
local function recount(rules)
  local key, sum = copied_key(rules), 0
  local copied = call('HGETALL', key)
  for i = 1, #copied, 2 do
    if call('EXISTS', job_key(copied[i])) == 1 then
      sum = sum + copied[i + 1]
    elseif copied[i] ~= '' then
      call('HDEL', key, copied[i])
    end
  end
  call('HSET', key, '', integer(sum))
  return sum
end

local function too_much_copied(rules, bytes)
  if bytes == 0 then return false end
  local sum = tonumber(call('HGET', copied_key(rules), '') or 0)
  -- The sum may still hold retries that have left, so a recount decides.
  return sum + bytes > rules.max_copied and recount(rules) + bytes > rules.max_copied
end

local function note_copied(rules, id, bytes)
  if bytes == 0 then return end
  call('HSET', copied_key(rules), id, integer(bytes))
  call('HINCRBY', copied_key(rules), '', integer(bytes))
end
