-- Whether a new execution is let in; stands in front of `submit`, which asks before it stores anything.
-- `asked` is a table with `tenant` and, where there is an idempotency key: `key`, `digest` (of the body it
-- came with) and `ttl` (milliseconds it is kept, from its first use).

local function idempotency_key(asked) return 'exec:idempotency:' .. asked.tenant .. ':' .. asked.key end

-- What the first start with this key was answered, or that it had another body; nil where there was none.
local function earlier(asked)
  if not asked.key then return nil end
  local first = redis.call('HMGET', idempotency_key(asked), 'id', 'created', 'digest')
  if not first[1] then return nil end
  if first[3] ~= asked.digest then return {'reused'} end
  return {'replayed', first[1], first[2]}
end

-- Kept apart from the execution, which may be gone earlier.
local function remember(asked, id, created)
  if not asked.key then return end
  redis.call('HSET', idempotency_key(asked), 'id', id, 'created', created, 'digest', asked.digest)
  redis.call('PEXPIRE', idempotency_key(asked), asked.ttl)
end

