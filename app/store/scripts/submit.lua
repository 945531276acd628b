-- (start) -> pending. Stores the job with its record, indexes it and queues it, all or nothing.
-- The web side calls it for every start and retry. If the id exists, the call is a repeat: nothing
-- changes, and the answer is the same.
-- A retry takes over the steps of the execution that it repeats, in the same call. If there are so
-- many that copying them would hold up the store, `copy` copies them before.
-- ARGV: id, expires in microseconds or '', source (the execution whose steps are taken over) or '',
--   data (what to run), rules (JSON for `admission.lua`; `copied` if the steps are copied already),
--   then the record as field, value, ...
-- Returns one of:
--   `accepted`, the id, the time of creation, the tenant's unfinished executions now (or -1)
--   `replayed`, the id and the time of the first start with this idempotency key
--   `reused` if the first start had another body
--   `too_many_unfinished`, `queue_full` or `too_much_retried` if that limit is reached
--   `source_gone` if the source has left the store
--   `copy_first` if the steps must be copied by `copy` before
-- Only `accepted` stores anything.

local MANY_FIELDS = 2000

-- Copies one of the two hashes of steps. A key of another type counts as empty.
local function take_over(rules, from, to)
  if rules.copied then
    call('PERSIST', to)
  elseif ask(0, 'HLEN', from) > 0 then
    call('COPY', from, to)
  end
end

-- Stores and queues it. The queue comes last: everything before can be undone, but a worker may
-- claim what is in a queue. Returns the length of the queue.
local function store(record, rules, source, data, fields, expires)
  local id, key = record.id, job_key(record.id)
  call('ZADD', WAITING, expires, id)
  call('HSET', key, 'status', 'queued', 'meta', record.meta, 'data', CALL, 'created_at',
    record.created_at, 'enqueued_at', record.created_at, 'version', 1, unpack(fields))
  call('SET', data_key(id), data)
  if source ~= '' then
    take_over(rules, steps_key(source), steps_key(id))
    take_over(rules, values_key(source), values_key(id))
  end
  index(record, 'pending')
  return call('RPUSH', queue_key(record.origin), id)
end

-- Removes what `store` has written before one of its keys turned out to have the wrong type.
local function undo(record)
  pcall(unindex, record, 'pending')
  local id = record.id
  try('UNLINK', job_key(id), data_key(id), steps_key(id), values_key(id))
  try('ZREM', WAITING, id)
end

local function is_long(source)
  return ask(0, 'HLEN', steps_key(source)) + ask(0, 'HLEN', values_key(source)) > MANY_FIELDS
end

local function run(ARGV)
  local id, expires_in, source, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local rules, fields = checked(cjson.decode(ARGV[5])), {unpack(ARGV, 6)}
  local at = now()
  local known = call('HMGET', job_key(id), 'created_at', 'created')  -- `created`: see old.lua
  if known[1] or known[2] then
    local created = microseconds(known[1]) or known[2] or 0
    return {'accepted', id, integer(created), unfinished(rules)}
  end
  local instead = earlier(rules)
  if instead then return instead end
  local unfinished_now = unfinished(rules)
  instead = refusal(rules, at, unfinished_now)
  if instead then return instead end
  if source ~= '' and call('EXISTS', job_key(source)) == 0 then return {'source_gone'} end

  local created_at = iso(at)
  local record = {id = id, status = 'queued', meta = meta('pending'), created_at = created_at,
    enqueued_at = created_at}
  for i = 1, #fields - 1, 2 do record[fields[i]] = fields[i + 1] end
  local expires = '+inf'
  if expires_in ~= '' then
    expires = integer(at + bounded(expires_in, 0, LONGEST))
    fields[#fields + 1], fields[#fields + 2], record.expires = 'expires', expires, expires
  end
  local wrong = flaws(record)
  if not record.tenant then wrong = and_also(wrong, 'tenant') end
  if wrong then error('ERR Invalid fields of the record: ' .. table.concat(wrong, ', ')) end
  if source ~= '' and not rules.copied and is_long(source) then return {'copy_first'} end
  local copied = bytes_to_copy(rules, data, source)
  if too_much_copied(rules, copied) then return {'too_much_retried'} end

  local stored, length = pcall(store, record, rules, source, data, fields, expires)
  if not stored then
    undo(record)
    error(length, 0)
  end
  record.version = 0
  tell(record, at, 'created')
  note_copied(rules, id, copied)
  if length == 1 then try('SADD', RQ_QUEUES, queue_key(record.origin)) end  -- `reap` adds it, too
  count('c:' .. record.type .. ':' .. record.target)
  remember(rules, id, integer(at))
  return {'accepted', id, integer(at), unfinished_now < 0 and -1 or unfinished_now + 1}
end
