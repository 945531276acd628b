-- running -> running, for many executions of one worker: extends their leases, stores their
-- progress, usage and events. It also notes that the worker is alive, and how many slots it uses.
-- A worker calls it several times a lease. Reports of an attempt are numbered 1, 2, ...; one that
-- arrives after a later one is not stored. Its events have numbers of their own: see events.lua.
-- ARGV: lease in microseconds, worker (`queue:name`, or '' if it is not to be noted), its slots
--   (`used/all`), how many events an execution keeps, then id, token, number of the report,
--   progress, usage (each JSON, or '' if unchanged), events of the child (JSON or ''), ...
-- Returns a word for each: `ok`, `cancel` (a cancel was requested), or `lost` (the lease belongs to
-- another attempt).

local REPORT = {'tenant', 'created_at', 'started_at', 'attempt', 'meta', 'usage', 'reported',
                'version'}

-- Stores a report of a running attempt.
local function store(id, at, max_events, number, progress, usage, events)
  local record = running(id, REPORT)
  if not record then return end
  local told, fields = note_reported(record, at, events), {}
  if number > (tonumber(record.reported) or 0) then
    fields = note_progress(record, at, progress, usage)
    fields[#fields + 1], fields[#fields + 2] = 'reported', integer(number)
  end
  if told then fields[#fields + 1], fields[#fields + 2] = 'told', told end
  call('HSET', job_key(id), 'version', tell_all(record, max_events), unpack(fields))
end

local function run(ARGV)
  local lease, worker, slots = bounded(ARGV[1], 1, LONGEST), ARGV[2], ARGV[3]
  local max_events = bounded(ARGV[4], 1, MAX_COUNT)
  local at = now()
  local ends, answers = integer(at + lease), {}
  if worker ~= '' then
    try('ZADD', WORKERS, integer(at), worker)  -- a failure here must not let leases expire
    try('HSET', SLOTS, worker, slots)
    register(worker)
  end
  for i = 5, #ARGV, 6 do
    local id, token, number, progress, usage, events = unpack(ARGV, i, i + 5)
    local record = try('HMGET', job_key(id), 'status', 'token', 'cancel')
    if not record.err and record[1] == 'started' and record[2] == token then
      call('ZADD', LEASES, ends, id)
      number = bounded(number, 0, FOREVER)
      if progress ~= '' or usage ~= '' or events ~= '' then
        store(id, at, max_events, number, progress, usage, events)
      end
      answers[#answers + 1] = record[3] and 'cancel' or 'ok'
    else
      answers[#answers + 1] = 'lost'
    end
  end
  return answers
end
