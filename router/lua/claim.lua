#!lua flags=allow-oom
-- claim takes the next batch of a shard for its owner: what is pending first,
-- else what is new.
--
-- KEYS[1] the shard's lease   KEYS[2] the shard log
-- ARGV[1] the owner's token   ARGV[2] group   ARGV[3] consumer
-- ARGV[4] most entries        ARGV[5] "1": delete idle consumers of dead routers
--
-- Returns {0} where the lease is not the owner's, else
-- {1, entries, ids that were pending but are no longer in the log}.
--
-- The lease is checked here, in the same step as the read, because a frozen owner
-- could otherwise still take entries after another router took over. Pending
-- entries come first, whoever has them: a lost reply leaves entries pending that
-- ">" skips. Repeating it returns the same batch until it is acknowledged.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end
local log, group, me = KEYS[2], ARGV[2], ARGV[3]
local claimed = redis.call('XAUTOCLAIM', log, group, me, 0, '0-0', 'COUNT', ARGV[4])
if ARGV[5] == '1' then
  for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', log, group)) do
    local name, pending
    for i = 1, #c, 2 do
      if c[i] == 'name' then name = c[i + 1] elseif c[i] == 'pending' then pending = c[i + 1] end
    end
    if name ~= me and pending == 0 then redis.call('XGROUP', 'DELCONSUMER', log, group, name) end
  end
end
local entries, gone = claimed[2], claimed[3] or {}
if #entries == 0 and #gone == 0 then
  local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', ARGV[4], 'STREAMS', log, '>')
  entries = read and read[1] and read[1][2] or {}
end
return {1, entries, gone}
