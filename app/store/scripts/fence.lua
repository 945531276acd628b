-- Raises a worker's claim number: claims with this number or a lower one do nothing from now on,
-- also if the network delivers them later. A worker calls it before its first claim, and after each
-- claim whose reply it did not get. Repeating the call, or a late one, changes nothing: the number
-- never goes down.
-- ARGV: worker, number.
local function run(ARGV)
  local worker, number = ARGV[1], bounded(ARGV[2], 0, FOREVER)
  local last = ask(false, 'HGET', CLAIMS, worker) or ''
  if not is_integer(last, FOREVER) or tonumber(last) < number then
    call('HSET', CLAIMS, worker, integer(number))
  end
end
