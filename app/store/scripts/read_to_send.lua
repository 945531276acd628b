-- Reads one execution for a webhook, at one instant. Like `status`, but a worker calls it, for many
-- executions in one round trip, so it returns few bytes: outputs that are too large are not sent.
-- ARGV: id, tenant, the most bytes of outputs, then the fields to read; the first three are status,
--   tenant and type.
-- Returns {values, outputs, steps, outputs of steps}, or nothing if the tenant has no such
-- execution. Steps are read only for a pipeline that ended early. 1 stands for outputs that are too
-- large.
local MANY_FIELDS = 2000

local function is_short(hash, most)
  if ask(0, 'HLEN', hash) > MANY_FIELDS then return false end
  local bytes = 0
  for _, name in ipairs(ask({}, 'HKEYS', hash)) do
    bytes = bytes + call('HSTRLEN', hash, name)
    if bytes > most then return false end
  end
  return true
end

local function run(ARGV)
  local id, tenant, most = ARGV[1], ARGV[2], bounded(ARGV[3], 0, FOREVER)
  local values = ask({}, 'HMGET', job_key(id), unpack(ARGV, 4))
  if values[2] ~= tenant then return false end
  local state, type = API_WORD[values[1] or ''], values[3]
  local broke_off = type == 'pipeline' and (state == 'failed' or state == 'cancelled')
  local outputs, steps, step_outputs = false, {}, {}
  if state == 'completed' then
    local is_large = ask(0, 'STRLEN', outputs_key(id)) > most
    outputs = is_large and 1 or ask(false, 'GET', outputs_key(id))
  elseif broke_off and is_short(values_key(id), most) and is_short(steps_key(id), most) then
    steps = ask({}, 'HGETALL', steps_key(id))
    step_outputs = ask({}, 'HGETALL', values_key(id))
  elseif broke_off then
    step_outputs = 1
  end
  return {values, outputs, steps, step_outputs}
end
