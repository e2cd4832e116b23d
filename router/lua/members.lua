#!lua flags=allow-oom
-- members tells the living routers that this one lives, and who else does.
--
-- KEYS[1] the members: a sorted set of tokens by the time they are dead, in ms
-- ARGV[1] the caller's token   ARGV[2] life in ms; 0: the caller leaves
--
-- Returns the living tokens, sorted. Repeating it renews. The key lives as long as
-- the last member. The clock is Redis's, so routers need not agree on the time.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local life = tonumber(ARGV[2])
if life > 0 then
  redis.call('ZADD', KEYS[1], now + life, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], life)
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local all = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(all)
return all
