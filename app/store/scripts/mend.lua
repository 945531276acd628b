-- For records that a reader could make no sense of. Readers only read, so that they work on a store that takes no
-- writes; what they find is ended as `RecordUnreadable` here, so that everybody finds the same.
-- ARGV: ids.
local function run(ARGV)
  for i = 1, #ARGV do
    dealt_with('record_unreadable', ARGV[i], function(id)
      local record = load(id)
      if not record then return end
      local read, found = pcall(cjson.decode, record.meta or '')
      if not read or type(found) ~= 'table' then quarantine(record, {'meta'}) end
    end, ARGV[i])
  end
end
