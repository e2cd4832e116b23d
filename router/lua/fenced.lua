#!lua flags=allow-oom
-- fenced runs commands where the leases are the caller's. It does what a transaction
-- that watches the leases does (turn.go), on a Redis that is full: that one refuses
-- to queue any command.
--
-- KEYS     the leases, none where the caller needs none; then any key of the commands
-- ARGV[1]  number of leases   ARGV[2] the owner's token
-- ARGV     of each command: number of strings, the strings
--
-- Returns the answers, nothing where a lease is another's. An answer may be an error.
local leases = tonumber(ARGV[1])
for i = 1, leases do
  if redis.call('GET', KEYS[i]) ~= ARGV[2] then return false end
end
local out, a = {}, 3
while a <= #ARGV do
  local n = tonumber(ARGV[a])
  out[#out + 1] = redis.pcall(unpack(ARGV, a + 1, a + n))
  a = a + 1 + n
end
return out
