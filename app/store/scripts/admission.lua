-- Whether a new execution is let in; stands in front of `submit`, which asks before it stores anything.
-- `asked` is a table with `tenant`, `queue` and, where they are in force:
--   key, digest, ttl   an idempotency key, the digest of the body it came with, milliseconds it is kept;
--   type, retry_of     with these, what else a repeat is answered
--   max_unfinished     pending and running executions of the tenant
--   max_length         executions in the queue
--   max_age            microseconds the oldest of them may have waited
--   max_copied         bytes that retries of the tenant may have copied; asked only where this is a retry

local function idempotency_key(asked) return 'exec:idempotency:' .. asked.tenant .. ':' .. asked.key end

-- What the first start with this key was answered, or that it had another body; nil where there was none.
local function earlier(asked)
  if not asked.key then return nil end
  local first = call('HMGET', idempotency_key(asked), 'id', 'created', 'digest')
  if not first[1] or not is_whole(first[2] or '', FOREVER) then return nil end
  if first[3] ~= asked.digest then return {'reused'} end
  return {'replayed', first[1], first[2]}
end

-- Kept apart from the execution, which may be gone earlier.
local function remember(asked, id, created)
  if not asked.key then return end
  call('HSET', idempotency_key(asked), 'id', id, 'created', created, 'digest', asked.digest,
    'type', asked.type, 'retry_of', asked.retry_of)
  call('PEXPIRE', idempotency_key(asked), whole(asked.ttl))
end

-- How many executions of the tenant are pending or running; -1 where nobody wants to know.
local function unfinished(asked)
  if not asked.max_unfinished then return -1 end
  local prefix, sum = 'exec:index:' .. asked.tenant .. ':', 0
  for state in pairs(LIVING) do
    sum = sum + call('ZCARD', prefix .. state .. ':agent') + call('ZCARD', prefix .. state .. ':pipeline')
  end
  return sum
end

-- When the oldest that was never started was created. Those that go back to a queue's front are older, but
-- did not wait for all that time; among the first hundred they are passed over.
local function waits_since(queue)
  for place = 0, 99 do
    local id = call('LINDEX', queue_key(queue), place)
    if not id then return nil end
    local record = try('HMGET', job_key(id), 'attempt', 'created_at')
    local created = not record.err and not record[1] and microseconds(record[2])
    if created then return created end
  end
end

-- Refuses what is no number, before anything is stored.
local function checked(asked)
  for _, name in ipairs({'max_unfinished', 'max_length', 'max_age'}) do
    asked[name] = asked[name] and bounded(asked[name], 0, FOREVER)
  end
  if asked.key then asked.ttl = bounded(asked.ttl, 1, LONGEST / 1000) end
  return asked
end

-- Which limit is reached; nil where none is.
local function refusal(asked, at, unfinished_now)
  if asked.max_unfinished and unfinished_now >= asked.max_unfinished then return {'too_many_unfinished'} end
  if asked.max_length and call('LLEN', queue_key(asked.queue)) >= asked.max_length then return {'queue_full'} end
  if asked.max_age and at - (waits_since(asked.queue) or at) > asked.max_age then return {'queue_full'} end
end

-- What retries of a tenant have copied and is still stored: id -> bytes, and their sum under ''. Less than this is not
-- counted, since it costs no more than a start; so there are few, and a recount is short.
local COUNTED_FROM = 65536
local function copied_key(asked) return 'exec:copied:' .. asked.tenant end

local function bytes_of(hash)
  if ask(0, 'HLEN', hash) > 2000 then return ask(0, 'MEMORY', 'USAGE', hash) end  -- an estimate by samples: exact ones take long
  local names, bytes = ask({}, 'HKEYS', hash), 0
  for _, name in ipairs(names) do bytes = bytes + #name + call('HSTRLEN', hash, name) end
  return bytes
end

-- How many bytes a retry copies: what was asked, and what is known of the steps of `source`, unless it is ''.
local function bytes_to_copy(asked, data, source)
  if not asked.max_copied then return 0 end
  local bytes = #data
  if source ~= '' then bytes = bytes + bytes_of(steps_key(source)) + bytes_of(values_key(source)) end
  return bytes < COUNTED_FROM and 0 or bytes
end

-- Forgets the retries that have left the store.
local function recount(asked)
  local key, sum = copied_key(asked), 0
  local copied = call('HGETALL', key)
  for i = 1, #copied, 2 do
    if call('EXISTS', job_key(copied[i])) == 1 then
      sum = sum + copied[i + 1]
    elseif copied[i] ~= '' then
      call('HDEL', key, copied[i])
    end
  end
  call('HSET', key, '', whole(sum))
  return sum
end

local function too_much_copied(asked, bytes)
  if bytes == 0 then return false end
  local sum = tonumber(call('HGET', copied_key(asked), '') or 0)
  return sum + bytes > asked.max_copied and recount(asked) + bytes > asked.max_copied
end

local function note_copied(asked, id, bytes)
  if bytes == 0 then return end
  call('HSET', copied_key(asked), id, whole(bytes))
  call('HINCRBY', copied_key(asked), '', whole(bytes))
end
