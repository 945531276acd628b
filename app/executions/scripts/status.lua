-- Reads one execution, all of it from the same instant: its fields, its outputs, and its steps where that is asked for.
-- What the steps have put out is read where it is asked for, and of a pipeline that did not complete; never
-- of one that runs, so that following it costs the same whatever it has put out.
-- ARGV: id, tenant, `status`, `steps` or `outputs` (steps with what they have put out), then the fields to read,
-- which begin with status, tenant and type.
-- Answers {values, outputs, steps, outputs of steps}; nothing where the tenant has no such execution.
local id, key, wanted = ARGV[1], job_key(ARGV[1]), ARGV[3]
local values = redis.pcall('HMGET', key, unpack(ARGV, 4))
if values.err then return false end
local status, tenant, type = unpack(values)
if tenant ~= ARGV[2] then return false end

-- What is no hash (anybody may have written there) holds nothing.
local function all_of(hash)
  local found = redis.pcall('HGETALL', hash)
  return found.err and {} or found
end

local broke_off = type == 'pipeline' and (status == 'failed' or status == 'canceled')
local outputs = status == 'finished' and redis.call('GET', outputs_key(id))
local steps = (wanted ~= 'status' or broke_off) and all_of(steps_key(id)) or {}
local put_out = (wanted == 'outputs' or broke_off) and all_of(values_key(id)) or {}
return {values, outputs, steps, put_out}
