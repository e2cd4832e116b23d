#!lua flags=allow-oom
-- project puts entries of the shard log into the logs of their jobs, and sets the
-- jobs' states.
--
-- KEYS[2j-1] the log of job j   KEYS[2j] its state. In a Cluster there is one job.
-- ARGV[1] retention in ms   ARGV[2] how much earlier a log may end (tails.go), in ms
-- ARGV[3] most entries   ARGV[4] most bytes
-- ARGV, a job: the state's JSON between id and seq, the same for all its entries;
--   what the caller believes the log's last entry to be: its seq ("0": it does not
--   know), id, bytes, final (0/1); "1" where the life of log and state is to be
--   renewed, "0" where the caller has done so just now; number of entries; the
--   entries, in the order of the shard log
-- ARGV, an entry: id, final (0/1), the state's JSON after seq ("" where the entry
--   does not become the state), size in bytes, number of strings, field, value …
--
-- Returns for each job an array. Where every entry was added under its own id:
-- "all", the id that stood before the first, the seq of the first, the bytes of the last.
-- Where the job's log
-- is no stream: "error", the text. Else for each entry three strings: what was done,
-- its id in the job log, its seq; and last the id that stood before the first entry
-- added ("" for none added).
--   "+" added   "=" was there already   "old" dropped: older than a log lives or than
--   a trimmed log's start   "over" dropped: after the final event
--
-- The belief spares reading the last entry. It is one of the only writer there is
-- (before the lease moves, and a router that lost the lease is stopped by XADD: its
-- ids are older), of a log that was never trimmed: so the log's length proves it. Where
-- Redis lost a part of the log the length differs.
--
-- Repeating it is safe: an entry that is there, by its id or by the orig of a late
-- one, is left alone. It never decodes JSON (cjson turns [] into {} and ruins big
-- integers), it only splices text. It runs while Redis is full: what was
-- acknowledged must get out.
local call = redis.call
local retention, slack, most, most_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local function split(id) return string.match(id, '^(%d+)-(%d+)$') end

-- Decimal strings of any length: Lua's numbers end at 2^53.
local function below(a, b) return #a < #b or (#a == #b and a < b) end

local function before(a, b)
  -- IDs of these days have 13 digits before the dash: then text compares as numbers do.
  if #a == #b and string.byte(a, 14) == 45 and string.byte(b, 14) == 45 then return a < b end
  local am, as = split(a)
  local bm, bs = split(b)
  return below(am, bm) or (am == bm and below(as, bs))
end

local function field(entry, name)
  local f = entry[2]
  for i = 1, #f, 2 do
    if f[i] == name then return f[i + 1] end
  end
end

-- Whether an id is so old that its log may have ended. Asked of few, so the clock is
-- read then.
local function expired(id)
  local t = call('TIME')
  local oldest = string.format('%.0f-0', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) - tonumber(retention) + slack)
  return before(id, oldest)
end

-- A late entry was stored under a later id; search from the end.
local function find_late(log, orig)
  local to = '+'
  while true do
    local page = call('XREVRANGE', log, to, '(' .. orig, 'COUNT', 100)
    for _, e in ipairs(page) do
      if field(e, 'orig') == orig then return e end
    end
    if #page < 100 then return nil end
    to = '(' .. page[#page][1]
  end
end

-- What is to be done with an entry that is not newer than the log's last.
local function verdict(log, id)
  local there = call('XRANGE', log, id, id)[1] or find_late(log, id)
  if there then return '=', there end
  local first = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if expired(id) or (field(first, 'seq') ~= '1' and before(id, first[1])) then return 'old' end
  return '+'
end

-- Trims a log to its most bytes; returns nothing.
local function trim(log, bytes)
  while bytes > most_bytes do
    local two = call('XRANGE', log, '-', '+', 'COUNT', 2)
    if #two < 2 or bytes - tonumber(field(two[1], 'bytes')) < most_bytes then return end
    call('XTRIM', log, 'MINID', '=', two[2][1])
  end
end

-- Projects one job, whose arguments begin at a; returns its answer, and where the
-- next job's begin.
local function project(log, state, a)
  local head, believed, renew, entries = ARGV[a], tonumber(ARGV[a + 1]), ARGV[a + 5] == '1', tonumber(ARGV[a + 6])
  local last, seq, bytes, over
  if believed > 0 and call('XLEN', log) == believed then
    last, seq, bytes, over = ARGV[a + 2], believed, tonumber(ARGV[a + 3]), ARGV[a + 4] == '1'
  end
  a = a + 7
  if not last then
    local tail = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)
    if tail.err then
      for _ = 1, entries do a = a + 5 + tonumber(ARGV[a + 4]) end
      return {'error', tail.err}, a
    end
    tail, renew = tail[1], true
    last, seq, bytes, over = '0-0', 0, 0, false
    if tail then
      last, seq, bytes, over = tail[1], tonumber(field(tail, 'seq')), tonumber(field(tail, 'bytes')), field(tail, 'final') == '1'
    end
  end
  local out, prev, plain, first_seq, new_state = {}, '', true, seq + 1, nil
  for _ = 1, entries do
    local id, final, tail_json, size, n = ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
    local done, there, late = '+', nil, false
    if not before(last, id) then
      late = true
      done, there = verdict(log, id)
    elseif last == '0-0' and expired(id) then
      done = 'old'
    end
    if done == '+' and over then done = 'over' end
    local at, at_seq = id, '0'
    if done == '=' then
      at, at_seq = there[1], field(there, 'seq')
    elseif done == '+' then
      if prev == '' then prev = last end
      if late then
        local ms, s = split(last)
        at = ms .. '-' .. string.format('%.0f', tonumber(s) + 1)
      end
      seq, bytes, last, over = seq + 1, bytes + size, at, final == '1'
      at_seq = tostring(seq)
      if late then
        plain = false
        call('XADD', log, 'MAXLEN', '=', most, at, 'seq', at_seq, 'final', final, 'bytes', bytes, 'orig', id, unpack(ARGV, a + 5, a + 4 + n))
      else
        call('XADD', log, 'MAXLEN', '=', most, at, 'seq', at_seq, 'final', final, 'bytes', bytes, unpack(ARGV, a + 5, a + 4 + n))
      end
      if tail_json ~= '' then new_state = '{"id":"' .. at .. '"' .. head .. at_seq .. tail_json end
    end
    if done ~= '+' then plain = false end
    out[#out + 1], out[#out + 2], out[#out + 3] = done, at, at_seq
    a = a + 5 + n
  end
  if prev ~= '' then
    trim(log, bytes)
    if renew then call('PEXPIRE', log, retention) end
    -- The last of a batch's states is the state; nobody can see one in between.
    if new_state then
      if renew or not call('SET', state, new_state, 'XX', 'KEEPTTL') then
        call('SET', state, new_state, 'PX', retention)
      end
    elseif renew then
      call('PEXPIRE', state, retention)
    end
  end
  if plain then return {'all', prev, tostring(first_seq), tostring(bytes)}, a end
  out[#out + 1] = prev
  return out, a
end

local answers, a = {}, 5
for k = 1, #KEYS, 2 do
  answers[#answers + 1], a = project(KEYS[k], KEYS[k + 1], a)
end
return answers
