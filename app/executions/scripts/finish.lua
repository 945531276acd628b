-- running -> completed | failed | cancelled, by whoever holds the attempt's token, whether or not its
-- lease ran out. After a cancel request the only final state is `cancelled`.
-- Repeating the call changes nothing and gives the same answer.
-- ARGV: id, token, usage (JSON, or ''), status, outputs (JSON, packed, or ''), error (JSON, or '').
-- Answers the final status, or `lost` for a stale token.
work_when_full()
if not RQ_WORD[ARGV[4]] or ARGV[4] == 'pending' or ARGV[4] == 'running' then error('ERR Not a final status: ' .. ARGV[4]) end
local record = load(ARGV[1])
if not record or record.token ~= ARGV[2] then return 'lost' end
if record.status ~= 'started' then return API_WORD[record.status] end

local at, status = now(), record.cancel and 'cancelled' or ARGV[4]
if status == 'completed' then redis.call('SET', outputs_key(record.id), ARGV[5]) end
redis.call('HDEL', job_key(record.id), 'progress', 'reported', 'saved')
note_usage(record.id, ARGV[3])
end_as(record, status, at, status == 'failed' and ARGV[6] or nil)
return status
