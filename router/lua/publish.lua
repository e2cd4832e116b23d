-- publish appends the events of several calls to one shard log, in order.
--
-- KEYS[1]  the shard log
-- KEYS     of each request: its job's final mark, and its idempotency key where it
--          has one
-- ARGV[1]  idempotency window in ms
-- ARGV[2]  "1": renew the key of a duplicate, so that a WAIT on this connection
--          covers the first write as well
-- ARGV     of each request: flags (1 has a key, 2 is final, 4 is the first of its
--          call), the values of the fields that every entry has, save those that
--          follow from the flags (job_id, stage, status, ts, progress, result), number
--          of further strings, field, value … What is the same for all is not sent: a
--          string costs a third of what XADD takes.
--
-- Returns for each request: its id, "=" .. id for a known key, "!" for a job that is
-- over, "-" for one that was not tried because one before it in its call was refused.
--
-- Repeating it is safe for requests with a key only; the caller never repeats it
-- by itself. It is refused while Redis is full (no allow-oom): nothing half done,
-- because the check precedes the script. Nothing in it can fail for one request
-- alone: a key of a wrong type counts as absent.
local window, touch = ARGV[1], ARGV[2] == '1'
local call, log, n_args = redis.call, KEYS[1], #ARGV
-- What was there before, asked at once; what this script sets is kept up to date.
local have = {}
for i, v in ipairs(call('MGET', unpack(KEYS, 2))) do
  if v then have[KEYS[i + 1]] = v end
end
local out, a, k, refused = {}, 3, 2, false
while a <= n_args do
  local flags, n = tonumber(ARGV[a]), tonumber(ARGV[a + 7])
  local mark, key, final = KEYS[k], nil, false
  k = k + 1
  if flags >= 4 then refused, flags = false, flags - 4 end
  if flags >= 2 then final, flags = true, flags - 2 end
  if flags == 1 then key, k = KEYS[k], k + 1 end
  local known = key and have[key]
  if refused then
    out[#out + 1] = '-'
  elseif known then
    if touch then call('PEXPIRE', key, window) end
    out[#out + 1] = '=' .. known
  elseif have[mark] then
    refused = true
    out[#out + 1] = '!'
  else
    local id = call('XADD', log, '*', 'job_id', ARGV[a + 1], 'stage', ARGV[a + 2], 'status', ARGV[a + 3], 'seq', '0',
      'ts', ARGV[a + 4], 'progress', ARGV[a + 5], 'result', ARGV[a + 6], 'final', final and '1' or '0',
      unpack(ARGV, a + 8, a + 7 + n))
    if key then
      call('SET', key, id, 'PX', window)
      have[key] = id
    end
    if final then
      call('SET', mark, id, 'PX', window)
      have[mark] = id
    end
    out[#out + 1] = id
  end
  a = a + 8 + n
end
return out
