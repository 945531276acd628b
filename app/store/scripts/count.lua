-- Adds what a process has counted by itself, such as HTTP requests and model calls.
-- A report that was added before changes nothing: they are numbered 1, 2, ... for each reporter.
-- Where the number of the last one makes no sense (anybody may have written there), this is taken for the first.
-- ARGV: reporter, number of the report, then field, amount, ...
local function run(ARGV)
  local key, number = 'exec:reported:' .. ARGV[1], bounded(ARGV[2], 0, FOREVER)
  local last = ask(false, 'GET', key) or '0'
  if is_whole(last, FOREVER) and tonumber(last) >= number then return end
  call('SET', key, whole(number), 'EX', 86400)
  -- A name this long also makes the store keep the hash as a table: the compact form it has for small ones
  -- is searched from its beginning by every count.
  count('Counters of the executions; what the fields mean is said in app/store/counters.py', 0)
  for i = 3, #ARGV - 1, 2 do
    if is_whole(ARGV[i + 1], FOREVER) then count(ARGV[i], ARGV[i + 1]) end
  end
end
