-- (start) -> pending. Stores the job with its record, indexes it and queues it, all or nothing.
-- An id that exists is a repeat of the same call: nothing changes, and the answer is the same.
-- A retry takes over what is known of the steps of the execution that it repeats, in the same step.
-- ARGV: id, expires in microseconds or '', the execution whose steps are taken over or '', what is asked (the
-- job's data), what `admission.lua` asks (JSON), then the record as field, value, ...
-- Answers `accepted` with the id and the time of creation; `replayed` with those of the first start with this
-- idempotency key; or `reused`, where that had another body; or the limit that was reached; or `source_gone`, where
-- what it was to take over has left. Then nothing is stored.
-- After the time of creation it says how many executions of the tenant are unfinished now, or -1.
local id, key, asked = ARGV[1], job_key(ARGV[1]), cjson.decode(ARGV[5])
local known = redis.call('HGET', key, 'created')
if known then return {'accepted', id, known, unfinished(asked)} end
local at = now()
local instead = earlier(asked) or refusal(asked, at)
if instead then return instead end
if ARGV[3] ~= '' and redis.call('EXISTS', job_key(ARGV[3])) == 0 then return {'source_gone'} end
local copied = bytes_to_copy(asked, ARGV[4], ARGV[3])
if too_much_copied(asked, copied) then return {'too_much_retried'} end

local expires = ARGV[2] == '' and '+inf' or whole(at + ARGV[2])
redis.call('ZADD', WAITING, expires, id)  -- at first: where one of the calls below is refused, the reaper queues it
redis.call('HSET', key, 'status', 'queued', 'created', whole(at), unpack(ARGV, 6))
redis.call('SET', data_key(id), ARGV[4])
local record = load(id)
if ARGV[2] ~= '' then redis.call('HSET', key, 'expires', expires) end
if ARGV[3] ~= '' then
  redis.call('COPY', steps_key(ARGV[3]), steps_key(id))
  redis.call('COPY', values_key(ARGV[3]), values_key(id))
end
note_copied(asked, id, copied)
index(record, 'all')
index(record, 'pending')
redis.call('RPUSH', queue_key(record.origin), id)
count('c:' .. record.type .. ':' .. record.target)
remember(asked, id, whole(at))
return {'accepted', id, whole(at), unfinished(asked)}
