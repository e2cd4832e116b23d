#!lua flags=allow-oom
-- recount finds entries that left the shard log before the group read them, as a
-- legacy producer's MAXLEN does, and corrects the group's count.
--
-- KEYS[1] the shard log   ARGV[1] group   ARGV[2] run of Redis whose count is known to
-- be right; "": none
--
-- Returns how many were lost since the last call, and this Redis's run. Without the
-- correction the group's lag would stay too high for ever. Repeating it returns 0.
--
-- A Redis before 7.2.5 does not tell its replicas and its AOF how far a group has read
-- (redis/redis#12898): after a failover, or a restart, the lag is too high by all that was
-- ever read. So in a new run the unread are counted once. They were not trimmed while the
-- last entry that the group read is still there; keep.go leaves it. Where they are many
-- the count is forgotten: Redis finds it again where the group reaches the log's end, and
-- knows no lag until then.
local function map(reply)
  local m = {}
  for i = 1, #reply, 2 do m[reply[i]] = reply[i + 1] end
  return m
end
local many = 100
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ARGV[2]
local log = map(redis.call('XINFO', 'STREAM', KEYS[1]))
for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  g = map(g)
  if g['name'] == ARGV[1] then
    local last, lag = g['last-delivered-id'], g['lag'] or 0
    if run ~= ARGV[2] and (last == log['last-generated-id'] or #redis.call('XRANGE', KEYS[1], last, last) > 0) then
      local unread = #redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', many)
      if unread < many then
        redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', log['entries-added'] - unread)
      else
        redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last)
      end
    elseif lag > log['length'] then
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', log['entries-added'] - log['length'])
      return {lag - log['length'], run}
    end
  end
end
return {0, run}
