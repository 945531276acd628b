-- Copies a piece of what is known of an execution's steps to a new one, which is submitted when all of it is there.
-- What is copied goes by itself after ten minutes, unless `submit` keeps it.
-- ARGV: from, to, `steps` or `values`, cursor (`0` at first). Answers the next cursor, `0` at the end.
local function run(ARGV)
  local parts = {steps = steps_key, values = values_key}
  local from, to, cursor = parts[ARGV[3]](ARGV[1]), parts[ARGV[3]](ARGV[2]), ARGV[4]
  local time_left = time_for(0.002)
  repeat
    local answer = ask({'0', {}}, 'HSCAN', from, cursor, 'COUNT', 100)
    cursor = answer[1]
    if #answer[2] > 0 then call('HSET', to, unpack(answer[2])) end
  until cursor == '0' or not time_left()
  call('EXPIRE', to, 600)
  return cursor
end
