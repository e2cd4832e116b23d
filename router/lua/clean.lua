#!lua flags=allow-oom
-- clean deletes consumers of a group that have nothing pending, save one: each
-- router that ever was left one behind.
--
-- KEYS[1] the shard log   ARGV[1] group   ARGV[2] the consumer that stays
--
-- Returns nothing. It is one step, so that a consumer that takes an entry at this
-- moment keeps it. Repeating it does nothing.
local known = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if known.err then return end -- no stream or no group: nobody to delete
for _, c in ipairs(known) do
  local name, pending
  for i = 1, #c, 2 do
    if c[i] == 'name' then name = c[i + 1] elseif c[i] == 'pending' then pending = c[i + 1] end
  end
  if name ~= ARGV[2] and pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name) end
end
