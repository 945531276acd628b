-- Reads deliveries of an execution, in the order of their events, at one instant.
-- ARGV: execution, tenant, the number after which to begin, the most to read.
-- Returns {how many it has, its callback or '', {number, when it is due in microseconds or '', {field, value, ...}},
-- ...}; nothing if the tenant has no such execution. A key of the wrong type reads as an empty hash.
local function run(ARGV)
  local execution, tenant = ARGV[1], ARGV[2]
  local after, most = bounded(ARGV[3], 0, MAX_COUNT), bounded(ARGV[4], 0, 1000)
  local record = ask({}, 'HMGET', job_key(execution), 'tenant', 'deliveries', 'callback')
  if record[1] ~= tenant then return false end
  local total = is_counter(record[2] or nil) and tonumber(record[2] or 0) or 0
  local found = {total, record[3] or ''}
  for number = after + 1, math.min(total, after + most) do
    local id = execution .. '-' .. integer(number)
    local fields = ask({}, 'HGETALL', job_key(id))
    if #fields > 0 then
      found[#found + 1] = {integer(number), ask(false, 'ZSCORE', DUE, id) or '', fields}
    end
  end
  return found
end
