-- Ends executions whose records are unreadable as `failed` with `RecordUnreadable`.
-- The web side calls it when it could not read a record. Reading functions write nothing, so that
-- they also work on a store that takes no writes. Repeating the call changes nothing.
-- ARGV: ids.
local function mend(id)
  local record = load(id)  -- quarantines the record if it is unreadable
  if not record then return end
  -- `load` looks only at the beginning of `meta`; people see all of it.
  local read, found = pcall(cjson.decode, record.meta or '')
  if not read or type(found) ~= 'table' then quarantine(record, {'meta'}) end
end

local function run(ARGV)
  local ids = ARGV
  for i = 1, #ids do dealt_with('record_unreadable', ids[i], mend, ids[i]) end
end
