-- Moves a worker's claim number up: claims with this number or a lower one do nothing from now on, also if
-- the network delivers them later. A worker calls it before its first claim, and after each claim whose
-- reply it did not get. Repeating the call, or a late one, changes nothing: the number never goes down.
-- ARGV: worker, number.
work_when_full()
local last = redis.pcall('HGET', CLAIMS, ARGV[1])
if type(last) ~= 'string' or (tonumber(last) or -1) < tonumber(ARGV[2]) then
  redis.call('HSET', CLAIMS, ARGV[1], ARGV[2])
end
