-- (start) -> pending. Stores the job with its record, indexes it and queues it, all or nothing.
-- An id that exists is a repeat of the same call: nothing changes, and the answer is the same.
-- A retry takes over what is known of the steps of the execution that it repeats, in the same step. Where that is so much
-- that copying it would hold the store for long, it is copied before, by `copy`.
-- ARGV: id, expires in microseconds or '', the execution whose steps are taken over or '', what is asked (the
-- job's data), what `admission.lua` asks (JSON; `copied` where the steps are), then the record as field, value, ...
-- Answers `accepted` with the id and the time of creation; `replayed` with those of the first start with this
-- idempotency key; or `reused`, where that had another body; or the limit that was reached; or `source_gone`, where
-- what it was to take over has left; or `copy_first`. Then nothing is stored.
-- After the time of creation it says how many executions of the tenant are unfinished now, or -1.

-- Two hashes that a retry takes over; what is no hash is nothing to take over.
local function take_over(asked, from, to)
  if asked.copied then
    call('PERSIST', to)
  elseif ask(0, 'HLEN', from) > 0 then
    call('COPY', from, to)
  end
end

-- Stores and queues it. The queue is last: whatever is refused before that can be undone.
local function store(record, asked, source, data, fields, expires)
  local id, key = record.id, job_key(record.id)
  call('ZADD', WAITING, expires, id)
  call('HSET', key, 'status', 'queued', 'meta', record.meta, 'data', CALL, 'created_at', record.created_at,
    'enqueued_at', record.created_at, unpack(fields))
  call('SET', data_key(id), data)
  if source ~= '' then
    take_over(asked, steps_key(source), steps_key(id))
    take_over(asked, values_key(source), values_key(id))
  end
  index(record, 'pending')
  return call('RPUSH', queue_key(record.origin), id)
end

-- For when somebody else's data is under one of the keys: nothing of it is kept.
local function undo(record)
  pcall(unindex, record, 'pending')
  try('UNLINK', job_key(record.id), data_key(record.id), steps_key(record.id), values_key(record.id))
  try('ZREM', WAITING, record.id)
end

local function run(ARGV)
  local id, source, data, asked = ARGV[1], ARGV[3], ARGV[4], checked(cjson.decode(ARGV[5]))
  local at = now()
  local known = call('HMGET', job_key(id), 'created_at', 'created')
  if known[1] or known[2] then
    return {'accepted', id, whole(microseconds(known[1]) or known[2] or 0), unfinished(asked)}
  end
  local instead = earlier(asked)
  if instead then return instead end
  local unfinished_now = unfinished(asked)
  instead = refusal(asked, at, unfinished_now)
  if instead then return instead end
  if source ~= '' and call('EXISTS', job_key(source)) == 0 then return {'source_gone'} end

  local fields, created_at = {unpack(ARGV, 6)}, iso(at)
  local record = {id = id, status = 'queued', meta = meta('pending'), created_at = created_at, enqueued_at = created_at}
  for i = 1, #fields - 1, 2 do record[fields[i]] = fields[i + 1] end
  local expires = '+inf'
  if ARGV[2] ~= '' then
    expires = whole(at + bounded(ARGV[2], 0, LONGEST))
    fields[#fields + 1], fields[#fields + 2], record.expires = 'expires', expires, expires
  end
  local wrong = flaws(record)
  if not record.tenant then wrong = and_also(wrong, 'tenant') end
  if wrong then error('ERR A record with these fields would make no sense: ' .. table.concat(wrong, ', ')) end
  if source ~= '' and not asked.copied and ask(0, 'HLEN', steps_key(source)) + ask(0, 'HLEN', values_key(source)) > 2000 then
    return {'copy_first'}
  end
  local copied = bytes_to_copy(asked, data, source)
  if too_much_copied(asked, copied) then return {'too_much_retried'} end

  local stored, length = pcall(store, record, asked, source, data, fields, expires)
  if not stored then
    undo(record)
    error(length, 0)
  end
  note_copied(asked, id, copied)
  if length == 1 then try('SADD', RQ_QUEUES, queue_key(record.origin)) end  -- `reap` does so, too
  count('c:' .. record.type .. ':' .. record.target)
  remember(asked, id, whole(at))
  return {'accepted', id, whole(at), unfinished_now < 0 and -1 or unfinished_now + 1}
end
