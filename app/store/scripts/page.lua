-- Reads one page of a list: its items and the total, both at one instant.
-- The web side calls it for every list. Several index keys are read as one list, in order of
-- creation; executions of the same microsecond are in order of their ids.
-- ARGV: offset, count, `desc` or `asc`, the number of index keys, these keys, then the fields to
--   read.
-- Returns {total, {id, value of each field, ...}, ...}. A missing field is false; there are no
-- values if the record is gone or its key has another type.

-- How many items of each list come before the page. A binary search finds the time at which at
-- most `offset` items were created; `merged` then orders the items of that very microsecond.
-- Returns the sum, and the number for each list.
local function places(keys, offset, ascending)
  local function before(time)
    local sum, counts = 0, {}
    for i = 1, #keys do
      if ascending then
        counts[i] = call('ZCOUNT', keys[i], '-inf', '(' .. integer(time))
      else
        counts[i] = call('ZCOUNT', keys[i], '(' .. integer(time), '+inf')
      end
      sum = sum + counts[i]
    end
    return sum, counts
  end
  local low, high = 0, FOREVER
  if offset == 0 then
    low = ascending and 0 or FOREVER
    high = low
  end
  while low < high do
    local half = (low + high) / 2
    local middle = ascending and math.ceil(half) or math.floor(half)
    if before(middle) <= offset then
      if ascending then low = middle else high = middle end
    elseif ascending then
      high = middle - 1
    else
      low = middle + 1
    end
  end
  return before(low)
end

-- The page's ids from several sorted lists: takes the first of their heads, again and again.
local function merged(keys, offset, count, ascending)
  local passed, starts = places(keys, offset, ascending)
  local skip, lists, heads, ids = offset - passed, {}, {}, {}
  local range = ascending and 'ZRANGE' or 'ZREVRANGE'
  for i = 1, #keys do
    local last = integer(starts[i] + skip + count - 1)
    lists[i] = call(range, keys[i], integer(starts[i]), last, 'WITHSCORES')
    heads[i] = 1
  end
  for taken = 1, skip + count do
    local best, id, time
    for i = 1, #lists do
      local next_id, next_time = lists[i][heads[i]], tonumber(lists[i][heads[i] + 1])
      local comes_first = next_id and not best
      if next_id and best then
        local tie = next_time == time
        if ascending then
          comes_first = next_time < time or tie and next_id < id
        else
          comes_first = next_time > time or tie and next_id > id
        end
      end
      if comes_first then best, id, time = i, next_id, next_time end
    end
    if not best then break end
    heads[best] = heads[best] + 2
    if taken > skip then ids[#ids + 1] = id end
  end
  return ids
end

local function run(ARGV)
  local offset, count = bounded(ARGV[1], 0, FOREVER), bounded(ARGV[2], 0, 1000)
  local ascending, key_count = ARGV[3] == 'asc', bounded(ARGV[4], 0, #ARGV - 5)
  local first_field = 5 + key_count
  local keys, total = {}, 0
  for i = 5, first_field - 1 do
    local key = ARGV[i]
    local size = call('ZCARD', key)
    if size > 0 then keys[#keys + 1] = key end
    total = total + size
  end
  local ids = {}
  if offset < total and count > 0 then
    if #keys == 1 then
      local range = ascending and 'ZRANGE' or 'ZREVRANGE'
      ids = call(range, keys[1], integer(offset), integer(offset + count - 1))
    else
      ids = merged(keys, offset, count, ascending)
    end
  end
  local rows = {}
  for i = 1, #ids do
    local values = ask({}, 'HMGET', job_key(ids[i]), unpack(ARGV, first_field))
    rows[i] = {ids[i], unpack(values)}
  end
  return {total, rows}
end
