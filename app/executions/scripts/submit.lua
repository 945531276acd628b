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
local id, key, asked = ARGV[1], job_key(ARGV[1]), checked(cjson.decode(ARGV[5]))
local source, at = ARGV[3], now()
local known = redis.call('HGET', key, 'created')
if known then return {'accepted', id, known, unfinished(asked)} end
local instead = earlier(asked) or refusal(asked, at)
if instead then return instead end
if source ~= '' and redis.call('EXISTS', job_key(source)) == 0 then return {'source_gone'} end

local record = {id = id, status = 'queued', created = whole(at)}
for i = 6, #ARGV - 1, 2 do record[ARGV[i]] = ARGV[i + 1] end
local expires = '+inf'
if ARGV[2] ~= '' then
  expires = whole(at + bounded(ARGV[2], 0, LONGEST))
  record.expires = expires
end
local wrong = flaws(record)
if not record.tenant then wrong[#wrong + 1] = 'tenant' end
if #wrong > 0 then error('ERR A record with these fields would make no sense: ' .. table.concat(wrong, ', ')) end
-- Where somebody else's data is under one of the keys, this refuses before anything is stored.
for _, status in ipairs({'all', 'pending'}) do each_index(record, status, function(each) redis.call('ZCARD', each) end) end
redis.call('LLEN', queue_key(record.origin))

-- Two hashes that a retry takes over; what is no hash is nothing to take over.
local function take_over(from, to)
  if asked.copied then
    redis.call('PERSIST', to)
  elseif ask(0, 'HLEN', from) > 0 then
    redis.call('COPY', from, to)
  end
end
if source ~= '' and not asked.copied and ask(0, 'HLEN', steps_key(source)) + ask(0, 'HLEN', values_key(source)) > 2000 then
  return {'copy_first'}
end
local copied = bytes_to_copy(asked, ARGV[4], source)
if too_much_copied(asked, copied) then return {'too_much_retried'} end

redis.call('ZADD', WAITING, expires, id)  -- at first: where one of the calls below is refused, the reaper queues it
redis.call('HSET', key, 'status', 'queued', 'created', whole(at), unpack(ARGV, 6))
redis.call('SET', data_key(id), ARGV[4])
if record.expires then redis.call('HSET', key, 'expires', expires) end
if source ~= '' then
  take_over(steps_key(source), steps_key(id))
  take_over(values_key(source), values_key(id))
end
note_copied(asked, id, copied)
index(record, 'all')
index(record, 'pending')
redis.call('RPUSH', queue_key(record.origin), id)
count('c:' .. record.type .. ':' .. record.target)
remember(asked, id, whole(at))
return {'accepted', id, whole(at), unfinished(asked)}
