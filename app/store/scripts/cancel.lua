-- pending -> cancelled at once. A running one gets a mark, which its worker is told of at once and finds
-- with its next beat at the latest; whoever sees it end writes `cancelled`. A final state stays as it is.
-- ARGV: id, tenant. Answers the status it has now, or nothing where the tenant has no such execution.
local function run(ARGV)
  local record = load(ARGV[1])
  if not record or record.tenant ~= ARGV[2] then return false end
  if record.state == 'pending' then
    end_as(record, 'cancelled', now())
    return 'cancelled'
  end
  if record.state == 'running' then
    call('HSETNX', job_key(record.id), 'cancel', whole(now()))
    try('PUBLISH', 'rq:pubsub:' .. (record.worker_name or ''), cjson.encode({command = 'cancel', execution_id = record.id}))
  end
  return record.state
end
