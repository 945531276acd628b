-- (start) -> pending. Stores the job with its record, indexes it and queues it, all or nothing.
-- An id that exists is a repeat of the same call: nothing changes, and the answer is the same.
-- A retry takes over what is known of the steps of the execution that it repeats, in the same step.
-- ARGV: id, expires in microseconds or '', the execution whose steps are taken over or '', what is asked (the
-- job's data), then the record as field, value, ...
-- Answers the time of creation.
local id, key = ARGV[1], job_key(ARGV[1])
local known = redis.call('HGET', key, 'created')
if known then return known end

local at = now()
redis.call('HSET', key, 'status', 'queued', 'created', whole(at), unpack(ARGV, 5))
redis.call('SET', data_key(id), ARGV[4])
local record = load(id)
local expires = '+inf'
if ARGV[2] ~= '' then
  expires = whole(at + ARGV[2])
  redis.call('HSET', key, 'expires', expires)
end
if ARGV[3] ~= '' then
  redis.call('COPY', steps_key(ARGV[3]), steps_key(id))
  redis.call('COPY', values_key(ARGV[3]), values_key(id))
end
index(record, 'all')
index(record, 'pending')
redis.call('ZADD', WAITING, expires, id)
redis.call('RPUSH', queue_key(record.origin), id)
count('c:' .. record.type .. ':' .. record.target)
return whole(at)
