-- pending -> cancelled, at once. A running execution gets a mark and stays running: a message tells
-- its worker, which otherwise finds the mark with its next heartbeat. Whoever ends the attempt
-- writes `cancelled`. A final state stays as it is. Repeating the call changes nothing.
-- ARGV: id, tenant.
-- Returns the status after the call, or nothing if the tenant has no such execution.
local function run(ARGV)
  local id, tenant = ARGV[1], ARGV[2]
  local record = load(id)
  if not record or record.tenant ~= tenant then return false end
  if record.state == 'pending' then
    end_as(record, 'cancelled', now())
    return 'cancelled'
  end
  if record.state == 'running' then
    if not record.cancel then
      local at = now()
      local version = tell(record, at, 'cancelling')
      call('HSET', job_key(id), 'cancel', integer(at), 'version', version)
    end
    -- RQ's own channel for commands to a worker. The message may be lost, the mark is not.
    local channel = 'rq:pubsub:' .. (record.worker_name or '')
    try('PUBLISH', channel, cjson.encode({command = 'cancel', execution_id = id}))
  end
  return record.state
end
