-- Copies one piece of an execution's steps to a new execution, which is submitted afterwards.
-- The web side calls it in a loop if `submit` answers `copy_first`: in one call, so much would hold
-- up the store. The copy expires after ten minutes unless `submit` keeps it.
-- ARGV: from, to, `steps` or `values`, cursor (`0` in the first call).
-- Returns the next cursor, `0` after the last piece.
local function run(ARGV)
  local source, target, part, cursor = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local key_of = ({steps = steps_key, values = values_key})[part]
  local from, to = key_of(source), key_of(target)
  local time_left = time_for(0.002)
  repeat
    local answer = ask({'0', {}}, 'HSCAN', from, cursor, 'COUNT', 100)
    cursor = answer[1]
    if #answer[2] > 0 then call('HSET', to, unpack(answer[2])) end
  until cursor == '0' or not time_left()
  call('EXPIRE', to, 600)
  return cursor
end
