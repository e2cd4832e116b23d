#!lua flags=allow-oom
-- recount finds entries that left the shard log before the group read them, as a
-- legacy producer's MAXLEN does, and corrects the group's count.
--
-- KEYS[1] the shard log   ARGV[1] group
--
-- Returns how many were lost since the last call. Without the correction the
-- group's lag would stay too high for ever. Repeating it returns 0.
local function map(reply)
  local m = {}
  for i = 1, #reply, 2 do m[reply[i]] = reply[i + 1] end
  return m
end
local log = map(redis.call('XINFO', 'STREAM', KEYS[1]))
for _, g in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  g = map(g)
  if g['name'] == ARGV[1] and g['lag'] and g['lag'] > log['length'] then
    local lost = g['lag'] - log['length']
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], g['last-delivered-id'], 'ENTRIESREAD', log['entries-added'] - log['length'])
    return lost
  end
end
return 0
