-- The generic commit: guards, then writes, then log entries, for many commits of one slice in one call.
-- KEYS: the meta record, the log stream, then every key that the commits name; ARGV names them by index into KEYS.
-- ARGV is flat and `redis_script.py` describes it. Numbers here stay below 10^14, so that Lua prints them as integers.
local meta = redis.call('HMGET', KEYS[1], 'token', 'identity', 'head', 'offset')
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[1] then
  return redis.error_reply('CHANGED the memory of this slice is not the one that was adopted')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(meta[4] or 0)
local first = tonumber(meta[3] or 0)
local head = first
local at = 7
local results = { now }
local COMMANDS = { s = 'HSET', d = 'HDEL', i = 'HINCRBY', z = 'ZADD', y = 'ZREM', k = 'UNLINK' }

-- Checks the guards in ARGV from `at` up to `stop`; nil when all hold, else the failed one's index and what it met.
local function check(stop)
  local index = 0
  while at < stop do
    local op, a, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    local key = KEYS[tonumber(a)]
    at = at + 3
    if op == 'e' then -- fields equal texts
      local found = redis.call('HMGET', key, unpack(ARGV, at, at + n - 1))
      for i = 1, n do
        if found[i] ~= ARGV[at + n + i - 1] then return index + i - 1, found[i] end
      end
      index, at = index + n - 1, at + n + n
    elseif op == 'a' then -- a field is absent
      local found = redis.call('HGET', key, ARGV[at])
      if found then return index, found end
      at = at + 1
    elseif op == 'x' then -- a key exists
      if redis.call('EXISTS', key) == 0 then return index, false end
    elseif op == 'b' then -- now is before a time
      if now >= n then return index, false end
    elseif op == 'f' then -- now is before the time in a field
      local limit = redis.call('HGET', key, ARGV[at])
      if not limit or now >= tonumber(limit) then return index, false end
      at = at + 1
    else -- 'n': a field that the writes add to is a number or absent
      local found = redis.call('HGET', key, ARGV[at])
      if found and not string.find(found, '^%-?%d+$') then return -3, found end
      at = at + 1
    end
    index = index + 1
  end
end

local function write(stop)
  while at < stop do
    local n = tonumber(ARGV[at + 2])
    redis.call(COMMANDS[ARGV[at]], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, at + 2 + n))
    at = at + 3 + n
  end
end

local function append(stop)
  while at < stop do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], (head + 1) .. '-0', 'd', ARGV[at])
    head, at = head + 1, at + 1
  end
end

local function show(stop)
  local all = {}
  for i = at, stop - 1 do
    local key = KEYS[tonumber(ARGV[i])]
    local shape = redis.call('TYPE', key).ok
    if shape == 'hash' then
      all[#all + 1] = { ARGV[i], shape, redis.call('HGETALL', key) }
    elseif shape == 'zset' then
      all[#all + 1] = { ARGV[i], shape, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') }
    end
  end
  return all
end

local function run()
  local done = {}
  for c = 1, tonumber(ARGV[6]) do
    local after, stop = tonumber(ARGV[at]), at + 5 -- then the ends of guards, writes, log and show as offsets from here
    local guards, writes = stop + tonumber(ARGV[at + 1]), stop + tonumber(ARGV[at + 2])
    local log, finish = stop + tonumber(ARGV[at + 3]), stop + tonumber(ARGV[at + 4])
    at = stop
    if after > 0 and not done[after] then
      results[c + 1] = { head, -2 }
    else
      local failed, found = check(guards)
      if failed then
        at = log
        results[c + 1] = { head, failed, found, show(finish) }
      else
        write(writes)
        append(log)
        done[c], results[c + 1] = true, head
      end
    end
    at = finish
  end
end

-- A command that fails on a key of the wrong shape must not leave the stored head behind the log.
local fine, failure = pcall(run)
if head > first then
  redis.call('HSET', KEYS[1], 'head', head)
  redis.call('PUBLISH', ARGV[4], ARGV[3] .. ' ' .. head)
end
if not fine then return redis.error_reply('FAULT ' .. tostring(type(failure) == 'table' and failure.err or failure)) end
return results
