-- Helpers of `reap`: they share out its time, and go through sorted sets of what is due.
-- `pass` is what one call of `reap` knows: `at` (now), `last` (the time of the last reap), `lease`,
-- `queues`, `retention` (by state), `registries`, `ends` (when its time is over, by the CPU's
-- clock), `more` (whether work is left for the next call) and `put_last` (see restore.lua).

local BATCH = 200

-- Returns a function that is true while a part may work: half of the time that is left.
local function share(pass) return time_for((pass.ends - os.clock()) / 2) end

-- Runs one part of a reap; an error in it is reported and does not stop the others.
local function part(name, act, ...) return dealt_with('reap_refused', name, act, ...) end

-- Calls `act(pass, id)` for the ids whose time is at most `limit`. If that fails for one, it is due
-- again after a lease, so it does not hold up those behind it. `score` is how the set writes times.
local function for_each_due(pass, key, limit, act, score)
  score = score or integer
  part(key, function()
    local time_left = share(pass)
    local first = score == integer and '-inf' or score(0)
    local ids = call('ZRANGEBYSCORE', key, first, score(limit), 'LIMIT', 0, BATCH)
    for i, id in ipairs(ids) do
      if i > 1 and not time_left() then
        pass.more = true
        return
      end
      if not part(id, act, pass, id) then
        call('ZADD', key, 'XX', score(limit + pass.lease), id)
      end
    end
    pass.more = pass.more or #ids == BATCH
  end)
end

-- Sets scores over `limit` to `instead`: no such time can have been written by today's clock.
local function lower_scores(key, limit, instead, score)
  score = score or integer
  part(key, function()
    local ids = call('ZRANGEBYSCORE', key, '(' .. score(limit), '+inf', 'LIMIT', 0, BATCH)
    for _, id in ipairs(ids) do call('ZADD', key, score(instead), id) end
  end)
end
