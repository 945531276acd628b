-- Reads one page of a list: its items and the total, both from the same instant.
-- ARGV: offset, count, `desc` or `asc`, the number of index keys, these keys, then the fields to read.
-- Several keys are read one after the other, as one list. Answers {total, {id, field, ...}, ...}; a field
-- that is not there is false, and there are none where the record is gone, or is none.
-- Records that make no sense are quarantined as they are found, and the page is read again: they may be in another list now.
local offset, count = bounded(ARGV[1], 0, FOREVER), bounded(ARGV[2], 0, 1000)
local keys = bounded(ARGV[4], 0, #ARGV - 5)
local look = reader({unpack(ARGV, 5 + keys)})
local range = ARGV[3] == 'desc' and 'ZREVRANGE' or 'ZRANGE'

local function read()
  local total, rows = 0, {}
  for i = 5, 4 + keys do
    local size = redis.call('ZCARD', ARGV[i])
    local first, missing = math.max(0, offset - total), count - #rows
    if missing > 0 and first < size then
      for _, id in ipairs(redis.call(range, ARGV[i], whole(first), whole(first + missing - 1))) do
        rows[#rows + 1] = {id, unpack(look(id))}
      end
    end
    total = total + size
  end
  return {total, rows}
end

local found = read()
return quarantined > 0 and read() or found
