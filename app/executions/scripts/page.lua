-- Reads one page of a list: its items and the total, both from the same instant.
-- ARGV: offset, count, `desc` or `asc`, the number of index keys, these keys, then the fields to read.
-- Several keys are read one after the other, as one list. Answers {total, {id, field, ...}, ...}; a field
-- that is not there is false; so are all where the record is gone, and there are none where it is no record.
local offset, count, keys = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local range = ARGV[3] == 'desc' and 'ZREVRANGE' or 'ZRANGE'
local total, rows = 0, {}
for i = 5, 4 + keys do
  local size = redis.call('ZCARD', ARGV[i])
  local first, missing = math.max(0, offset - total), count - #rows
  if missing > 0 and first < size then
    for _, id in ipairs(redis.call(range, ARGV[i], first, first + missing - 1)) do
      local values = redis.pcall('HMGET', job_key(id), unpack(ARGV, 5 + keys))
      rows[#rows + 1] = values.err and {id} or {id, unpack(values)}
    end
  end
  total = total + size
end
return {total, rows}
