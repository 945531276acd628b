-- (start) -> pending. Stores the job with its record, indexes it and queues it, all or nothing.
-- An id that exists is a repeat of the same call: nothing changes, and the answer is the same.
-- ARGV: id, expires in microseconds or '', then the record as field, value, ...
-- Answers the time of creation.
local id, key = ARGV[1], job_key(ARGV[1])
local known = redis.call('HGET', key, 'created')
if known then return known end

local at = now()
redis.call('HSET', key, 'status', 'queued', 'created', whole(at), unpack(ARGV, 3))
local record = load(id)
local expires = '+inf'
if ARGV[2] ~= '' then
  expires = whole(at + ARGV[2])
  redis.call('HSET', key, 'expires', expires)
end
index(record, 'all')
index(record, 'pending')
redis.call('ZADD', WAITING, expires, id)
redis.call('RPUSH', queue_key(record.origin), id)
count('c:' .. record.type .. ':' .. record.target)
return whole(at)
