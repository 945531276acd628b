-- Reads one page of a list: its items and the total, both from the same instant.
-- ARGV: offset, count, `desc` or `asc`, the number of index keys, these keys, then the fields to read.
-- Several keys are read as one list, in order of creation. Answers {total, {id, field, ...}, ...}; a field that is not
-- there is false, and there are none where the record is gone, or is none.

-- Where the page begins in each list: how many of it come before. The time is sought by halving at which as many have
-- come as are to be skipped; what was created at that same moment is put in order by `merged`.
local function places(keys, offset, ascending)
  local function before(time)
    local sum, each_key = 0, {}
    for i = 1, #keys do
      each_key[i] = ascending and call('ZCOUNT', keys[i], '-inf', '(' .. whole(time)) or call('ZCOUNT', keys[i], '(' .. whole(time), '+inf')
      sum = sum + each_key[i]
    end
    return sum, each_key
  end
  local low, high = 0, FOREVER
  if offset == 0 then low = ascending and 0 or FOREVER; high = low end
  while low < high do
    local middle = ascending and math.ceil((low + high) / 2) or math.floor((low + high) / 2)
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

-- The page's ids out of several lists, each of which is in order: the first of their heads, again and again.
local function merged(keys, offset, count, ascending)
  local passed, starts = places(keys, offset, ascending)
  local skip, lists, heads, ids = offset - passed, {}, {}, {}
  for i = 1, #keys do
    local last = whole(starts[i] + skip + count - 1)
    lists[i] = call(ascending and 'ZRANGE' or 'ZREVRANGE', keys[i], whole(starts[i]), last, 'WITHSCORES')
    heads[i] = 1
  end
  for taken = 1, skip + count do
    local best, id, time
    for i = 1, #lists do
      local next_id, next_time = lists[i][heads[i]], tonumber(lists[i][heads[i] + 1])
      local before = next_id and (not best or next_time < time or (next_time == time and next_id < id))
      if not ascending then before = next_id and (not best or next_time > time or (next_time == time and next_id > id)) end
      if before then best, id, time = i, next_id, next_time end
    end
    if not best then break end
    heads[best] = heads[best] + 2
    if taken > skip then ids[#ids + 1] = id end
  end
  return ids
end

local function run(ARGV)
  local offset, count, ascending = bounded(ARGV[1], 0, FOREVER), bounded(ARGV[2], 0, 1000), ARGV[3] == 'asc'
  local first_field, keys, total = 5 + bounded(ARGV[4], 0, #ARGV - 5), {}, 0
  for i = 5, first_field - 1 do
    local size = call('ZCARD', ARGV[i])
    if size > 0 then keys[#keys + 1] = ARGV[i] end
    total = total + size
  end
  local ids = {}
  if offset < total and count > 0 then
    if #keys == 1 then
      ids = call(ascending and 'ZRANGE' or 'ZREVRANGE', keys[1], whole(offset), whole(offset + count - 1))
    else
      ids = merged(keys, offset, count, ascending)
    end
  end
  local rows = {}
  for i = 1, #ids do rows[i] = {ids[i], unpack(ask({}, 'HMGET', job_key(ids[i]), unpack(ARGV, first_field)))} end
  return {total, rows}
end
