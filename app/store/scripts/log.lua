-- Reads events of an execution, and the record, which says the first ones by itself: see events.lua.
-- ARGV: id, tenant, the number after which to begin, how many, then the fields of the record.
-- Returns {values of the fields, the number of the first stored event or 0 if there is no list, the
-- number of the first entry, entries}, or nothing if the tenant has no such execution. There are
-- fewer entries if they are large; at least one if there is any.
local PIECE, MAX_BYTES = 100, 1024 * 1024

-- The entries with the numbers from `first` to `last`. The last one in the list has the number
-- `version`.
local function entries_from(key, first, last, version)
  local entries, bytes = {}, 0
  while first <= last and bytes < MAX_BYTES do
    local stop = math.min(first + PIECE - 1, last)
    local piece = call('LRANGE', key, first - version - 1, stop - version - 1)
    for _, text in ipairs(piece) do
      entries[#entries + 1], bytes = text, bytes + #text
      if bytes >= MAX_BYTES then break end
    end
    first = stop + 1
  end
  return entries
end

local function run(ARGV)
  local id, tenant = ARGV[1], ARGV[2]
  local after, count = bounded(ARGV[3], 0, FOREVER), bounded(ARGV[4], 0, 10000)
  local known = ask({}, 'HMGET', job_key(id), 'tenant', 'version')
  if known[1] ~= tenant then return false end
  local values = call('HMGET', job_key(id), unpack(ARGV, 5))
  local version, length = tonumber(known[2] or ''), ask(0, 'LLEN', events_key(id))
  if not version or length == 0 then return {values, 0, 0, {}} end
  local oldest = math.max(1, version - length + 1)
  local first = math.max(oldest, after + 1)
  local last = math.min(version, first + count - 1)
  return {values, oldest, first, entries_from(events_key(id), first, last, version)}
end
