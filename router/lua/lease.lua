#!lua flags=allow-oom
-- lease takes or renews a lease.
--
-- KEYS[1] the lease   ARGV[1] the owner's token   ARGV[2] life in ms
--
-- Returns 1 where the caller has it now, 0 where another has. Repeating it renews.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
