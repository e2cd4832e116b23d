-- publish appends events to one shard log, in order.
--
-- KEYS[1]           the shard log
-- KEYS[2i], [2i+1]  of request i: its job's final mark, its idempotency key (the
--                   final mark again where it has none)
-- ARGV[1]           idempotency window in ms
-- ARGV[2]           "1": renew the key of a duplicate, so that a WAIT on this
--                   connection covers the first write as well
-- ARGV, a request   has key (0/1), final (0/1), number of strings, field, value …
--
-- Returns for each request, up to the first that is refused: its id, "=" .. id
-- for a known key, "!" for a job that is over.
--
-- Repeating it is safe for requests with a key only; the caller never repeats it
-- by itself. It is refused while Redis is full (no allow-oom): nothing half done,
-- because the check precedes the script.
local window, touch = ARGV[1], ARGV[2] == '1'
local out, a, k = {}, 3, 2
while a <= #ARGV do
  local has_key, final, n = ARGV[a] == '1', ARGV[a + 1] == '1', tonumber(ARGV[a + 2])
  local mark, key = KEYS[k], KEYS[k + 1]
  local known = has_key and redis.call('GET', key)
  if known then
    if touch then redis.call('PEXPIRE', key, window) end
    out[#out + 1] = '=' .. known
  elseif redis.call('EXISTS', mark) == 1 then
    out[#out + 1] = '!'
    break
  else
    local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, a + 3, a + 2 + n))
    if has_key then redis.call('SET', key, id, 'PX', window) end
    if final then redis.call('SET', mark, id, 'PX', window) end
    out[#out + 1] = id
  end
  a, k = a + 3 + n, k + 2
end
return out
