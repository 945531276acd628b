-- completed -> failed, with `RecordUnreadable`: what it has put out is gone, or is no JSON. That is only seen by whoever
-- reads it. Nothing else can be shown of it, so this is the one final state that changes.
-- ARGV: id, tenant.
local function run(ARGV)
  local record = load(ARGV[1])
  if not record or record.tenant ~= ARGV[2] or record.state ~= 'completed' then return end
  quarantine(record, {'outputs'})
end
