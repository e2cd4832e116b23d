#!lua flags=allow-oom
-- release gives a lease back, if it is still the caller's.
--
-- KEYS[1] the lease   ARGV[1] the owner's token
--
-- Returns 1 where it was. Repeating it does nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
