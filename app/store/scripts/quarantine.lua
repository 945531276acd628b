-- completed -> failed with `RecordUnreadable`, because the outputs are gone or are no JSON.
-- The web side calls it when it reads such outputs; no script sees it earlier. Nothing else could
-- be shown, so this is the one final state that changes. Repeating the call changes nothing.
-- ARGV: id, tenant.
local function run(ARGV)
  local id, tenant = ARGV[1], ARGV[2]
  local record = load(id)
  if not record or record.tenant ~= tenant or record.state ~= 'completed' then return end
  quarantine(record, {'outputs'})
end
