-- Adds what a process has counted by itself, such as HTTP requests and model calls.
-- A report that was added before changes nothing: they are numbered 1, 2, ... for each reporter.
-- ARGV: reporter, number of the report, then field, amount, ...
work_when_full()
local key = 'exec:reported:' .. ARGV[1]
if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2]) then return end
redis.call('SET', key, ARGV[2], 'EX', 86400)
-- A name this long also makes the store keep the hash as a table: the compact form it has for small ones
-- is searched from its beginning by every count.
count('Counters of the executions; what the fields mean is said in app/executions/counters.py', 0)
for i = 3, #ARGV, 2 do count(ARGV[i], ARGV[i + 1]) end
