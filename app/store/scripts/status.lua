-- Reads one execution, all of it from the same instant: its fields, its outputs, and its steps where that is asked for.
-- What the steps have put out is read where it is asked for, and of a pipeline that did not complete; never
-- of one that runs, so that following it costs the same whatever it has put out.
-- ARGV: id, tenant, `status`, `steps` or `outputs` (steps with what they have put out), then the fields to read,
-- which begin with status, tenant and type.
-- Answers {values, outputs, steps, outputs of steps}; nothing where the tenant has no such execution. What is so large
-- that it would hold the store for long is answered as 1: whoever asks reads it with calls of its own.

-- What is no hash (anybody may have written there) holds nothing.
local function all_of(hash)
  return ask(0, 'HLEN', hash) > 2000 and 1 or ask({}, 'HGETALL', hash)
end

local function run(ARGV)
  local id, tenant, wanted = ARGV[1], ARGV[2], ARGV[3]
  local values = ask({}, 'HMGET', job_key(id), unpack(ARGV, 4))
  if values[2] ~= tenant then return false end
  local state, type = API_WORD[values[1] or ''], values[3]
  local broke_off = type == 'pipeline' and (state == 'failed' or state == 'cancelled')
  local outputs = false
  if state == 'completed' then
    outputs = ask(0, 'STRLEN', outputs_key(id)) > 262144 and 1 or ask(false, 'GET', outputs_key(id))
  end
  local steps = (wanted ~= 'status' or broke_off) and all_of(steps_key(id)) or {}
  local put_out = (wanted == 'outputs' or broke_off) and all_of(values_key(id)) or {}
  return {values, outputs, steps, put_out}
end
