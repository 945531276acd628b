-- running -> completed | failed | cancelled, by the worker that holds the attempt's token, whether
-- or not its lease has expired. After a cancel request the only final state is `cancelled`.
-- Repeating the call changes nothing and gives the same answer.
-- ARGV: id, token, usage (JSON or ''), events of the child (see events.lua), status, outputs (packed
--   JSON or ''), error (JSON or '').
-- Returns the final status, or `lost` for a stale token.
local function run(ARGV)
  local id, token, usage, events, status, outputs, failed_with = unpack(ARGV, 1, 7)
  if not REGISTRY[status] then error('ERR Not a final status: ' .. status) end
  local record = load(id, SHOWN_FIELDS)
  if not record or record.token ~= token then return 'lost' end
  if record.state ~= 'running' then return record.state end

  local fields = {}
  if record.cancel then status = 'cancelled' end
  -- Before the status: a reader that finds `completed` also finds the outputs.
  if status == 'completed' then call('SET', outputs_key(id), outputs) end
  if usage ~= '' then fields[1], fields[2] = 'usage', usage end
  if status == 'failed' then fields[#fields + 1], fields[#fields + 2] = 'error', failed_with end
  local at = now()
  note_reported(record, at, events)
  end_as(record, status, at, fields)
  return status
end
