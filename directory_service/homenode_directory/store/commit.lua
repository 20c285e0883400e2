-- The generic commit: guards, then writes, then log entries, for many commits of one slice in one call.
-- KEYS: the meta record, the log stream, then every key that the commits name, by index into KEYS. The commits come
-- packed, their log entries behind them; `redis_script.py` describes both. Numbers stay below 10^14, so that Lua prints them as integers.
local meta = redis.call('HMGET', KEYS[1], 'token', 'identity', 'head', 'offset')
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[1] then
  return redis.error_reply('CHANGED the memory of this slice is not the one that was adopted')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(meta[4] or 0)
local first = tonumber(meta[3] or 0)
local head = first
local log_max = ARGV[5]
local results = { now }
local COMMANDS = { s = 'HSET', d = 'HDEL', i = 'HINCRBY', z = 'ZADD', y = 'ZREM', k = 'UNLINK' }

-- Checks guards; nil when all hold, else the failed one's index and what it met.
local function check(words)
  local at, index, count = 1, 0, #words
  while at < count do
    local op, key, n = words[at], KEYS[words[at + 1]], words[at + 2]
    at = at + 3
    if op == 'e' then -- fields equal texts, or are absent (0)
      local found = redis.call('HMGET', key, unpack(words, at, at + n - 1))
      for i = 1, n do
        local wanted = words[at + n + i - 1]
        if found[i] ~= wanted and (found[i] or wanted ~= 0) then return index + i - 1, found[i] end
      end
      index, at = index + n - 1, at + n + n
    elseif op == 'x' then -- a key exists
      if redis.call('EXISTS', key) == 0 then return index, false end
    elseif op == 'b' then -- now is before a time
      if now >= n then return index, false end
    elseif op == 'f' then -- now is before the time in a field
      local limit = redis.call('HGET', key, n)
      if not limit or now >= tonumber(limit) then return index, false end
    else -- 'n': a field that the writes add to is a number or absent
      local found = redis.call('HGET', key, n)
      if found and not string.find(found, '^%-?%d+$') then return -3, found end
    end
    index = index + 1
  end
end

local function write(words)
  local at, count = 1, #words
  while at < count do
    local n = words[at + 2]
    redis.call(COMMANDS[words[at]], KEYS[words[at + 1]], unpack(words, at + 3, at + 2 + n))
    at = at + 3 + n
  end
end

local function append(from, stop)
  for i = from, stop do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', log_max, (head + 1) .. '-0', 'd', ARGV[i])
    head = head + 1
  end
end

local function show(keys)
  local all = {}
  for i = 1, #keys do
    local key = KEYS[keys[i]]
    local shape = redis.call('TYPE', key).ok
    if shape == 'hash' then
      all[#all + 1] = { keys[i], shape, redis.call('HGETALL', key) }
    elseif shape == 'zset' then
      all[#all + 1] = { keys[i], shape, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') }
    end
  end
  return all
end

local function run()
  local done, logged = {}, 6
  for c, commit in ipairs(cmsgpack.unpack(ARGV[6])) do
    local after = commit[1]
    if after > 0 and not done[after] then
      results[c + 1] = { head, -2 }
    else
      local failed, found = check(commit[2])
      if failed then
        results[c + 1] = { head, failed, found, show(commit[5]) }
      else
        write(commit[3])
        append(logged + 1, logged + commit[4])
        done[c], results[c + 1] = true, head
      end
    end
    logged = logged + commit[4]
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
