-- Notes that somebody follows the events of an execution: then it reports what it would keep to
-- itself, such as a model's answer while it comes. The web side calls it when a stream begins.
-- A worker that claims the execution later finds the mark; a worker that runs it gets a message.
-- ARGV: id, tenant.
-- Returns 1, or nothing if the tenant has no such execution or it has ended.
local function run(ARGV)
  local id, tenant = ARGV[1], ARGV[2]
  local record = fields_of(id, {'tenant', 'status', 'worker_name', 'listened'})
  if not record or record.tenant ~= tenant then return false end
  local state = API_WORD[record.status or '']
  if not LIVING[state] then return false end
  if not record.listened then call('HSET', job_key(id), 'listened', 1) end
  if state == 'running' and record.worker_name then
    local channel = 'rq:pubsub:' .. record.worker_name
    try('PUBLISH', channel, cjson.encode({command = 'listen', execution_id = id}))
  end
  return 1
end
