-- Moves a worker's claim number up: claims with this number or a lower one do nothing from now on, also if
-- the network delivers them later. A worker calls it before its first claim, and after each claim whose
-- reply it did not get. Repeating the call, or a late one, changes nothing: the number never goes down.
-- ARGV: worker, number.
local worker, number = ARGV[1], bounded(ARGV[2], 0, FOREVER)
work_when_full()
if (tonumber(ask(false, 'HGET', CLAIMS, worker) or -1) or -1) < number then
  redis.call('HSET', CLAIMS, worker, whole(number))
end
