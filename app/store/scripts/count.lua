-- Adds what a process has counted by itself, such as HTTP requests and model calls.
-- Reports are numbered 1, 2, ... for each reporter; one that was added before changes nothing. If
-- the number of the last report is unreadable, this report counts as the first.
-- ARGV: reporter, number of the report, then field, amount, ...
local function run(ARGV)
  local reporter, number = ARGV[1], bounded(ARGV[2], 0, FOREVER)
  local key = 'exec:reported:' .. reporter
  local last = ask(false, 'GET', key) or '0'
  if is_integer(last, FOREVER) and tonumber(last) >= number then return end
  call('SET', key, integer(number), 'EX', 86400)
  -- A name this long makes the store keep the hash as a table. The compact form that it has for
  -- small values would be searched from its beginning by every count.
  count('Counters of the executions; what the fields mean is said in app/store/counters.py', 0)
  for i = 3, #ARGV - 1, 2 do
    local field, amount = ARGV[i], ARGV[i + 1]
    if is_integer(amount, FOREVER) then count(field, amount) end
  end
end
