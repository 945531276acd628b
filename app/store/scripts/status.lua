-- Reads one execution at one instant: its fields, its outputs, and its steps if they are asked for.
-- The outputs of steps are read if they are asked for, and for a pipeline that ended early. For a
-- running one they are not, so that polling costs the same however large they are.
-- ARGV: id, tenant, `status`, `steps` or `outputs` (steps with their outputs), then the fields to
--   read; the first three are status, tenant and type.
-- Returns {values, outputs, steps, outputs of steps}, or nothing if the tenant has no such
-- execution. 1 stands for a value so large that reading it would hold up the store: the caller
-- reads it with calls of its own.
local LARGE_BYTES, MANY_FIELDS = 262144, 2000

-- A key of another type reads as an empty hash.
local function all_of(hash)
  return ask(0, 'HLEN', hash) > MANY_FIELDS and 1 or ask({}, 'HGETALL', hash)
end

local function run(ARGV)
  local id, tenant, include = ARGV[1], ARGV[2], ARGV[3]
  local values = ask({}, 'HMGET', job_key(id), unpack(ARGV, 4))
  if values[2] ~= tenant then return false end
  local state, type = API_WORD[values[1] or ''], values[3]
  local broke_off = type == 'pipeline' and (state == 'failed' or state == 'cancelled')
  local outputs = false
  if state == 'completed' then
    local is_large = ask(0, 'STRLEN', outputs_key(id)) > LARGE_BYTES
    outputs = is_large and 1 or ask(false, 'GET', outputs_key(id))
  end
  local steps = (include ~= 'status' or broke_off) and all_of(steps_key(id)) or {}
  local step_outputs = (include == 'outputs' or broke_off) and all_of(values_key(id)) or {}
  return {values, outputs, steps, step_outputs}
end
