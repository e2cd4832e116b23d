#!lua flags=allow-oom
-- turn settles the batch before and takes the next batch of a shard, for its owner:
-- what is pending first, else what is new.
--
-- KEYS[1] the shard's lease   KEYS[2] the shard log
-- KEYS[3…] the final marks of the jobs that ended with the batch before
-- ARGV[1] the owner's token   ARGV[2] group   ARGV[3] consumer
-- ARGV[4] most entries; 0: take none
-- ARGV[5] "1": delete idle consumers of dead routers
-- ARGV[6] life of a final mark in ms
-- ARGV[7] the history that the batch before was claimed from; "" for none, "-" on a
--         Redis that has no histories
-- ARGV    the id of each final mark, then the ids to acknowledge
--
-- Returns {0, settled} where the lease is not the owner's, else {1, settled, entries,
-- ids that were pending but are no longer in the log, the history}.
--
-- What is settled was projected and announced, whoever owns the shard now; so that
-- is not fenced by the lease. But a failover may have come since: the new master has
-- the entries, and perhaps not their projection, which went to the old one. So it is
-- settled only in the history (Redis: master_replid) that it was claimed from; else
-- the entries stay pending, and are projected again. The claim is fenced: the lease is checked in the same step as the read,
-- because a frozen owner could otherwise still take entries after another router
-- took over. Pending entries come first, whoever has them: a lost reply leaves
-- entries pending that ">" skips. Repeating it settles nothing twice and returns the
-- same batch until that is acknowledged.
local log, group, me, most = KEYS[2], ARGV[2], ARGV[3], ARGV[4]
local here, settled, a = '-', 0, 8
if ARGV[7] ~= '-' then here = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') end
if ARGV[7] == here then
  settled = 1
  for k = 3, #KEYS do
    redis.call('SET', KEYS[k], ARGV[a], 'PX', ARGV[6])
    a = a + 1
  end
  if a <= #ARGV then redis.call('XACK', log, group, unpack(ARGV, a)) end
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, settled} end
if most == '0' then return {1, settled, {}, {}, here} end
local claimed = redis.call('XAUTOCLAIM', log, group, me, 0, '0-0', 'COUNT', most)
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
  local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', most, 'STREAMS', log, '>')
  entries = read and read[1] and read[1][2] or {}
end
return {1, settled, entries, gone, here}
