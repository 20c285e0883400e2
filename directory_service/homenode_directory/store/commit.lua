-- The generic commit: guards, then writes, then log entries, for many commits of one slice in one call.
-- KEYS: the meta record, the log stream, then every key that the commits name, by index into KEYS. The commits come
-- packed; `redis_script.py` describes them. Numbers stay below 10^14, so that Lua prints them as integers.
local call, keys = redis.call, KEYS
local meta = call('HMGET', keys[1], 'token', 'identity', 'head', 'offset')
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[1] then
  return redis.error_reply('CHANGED the memory of this slice is not the one that was adopted')
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(meta[4] or 0)
local first = tonumber(meta[3] or 0)
local head = first
local entries, lengths = {}, {}
local results = { now }

-- Checks guards; nil when all hold, else the failed one's index and what it met.
local function check(words)
  local at, index, count = 1, 0, #words
  while at < count do
    local op, key, n = words[at], keys[words[at + 1]], words[at + 2]
    at = at + 3
    if op == 'e' then -- fields equal texts, or are absent (0)
      if n == 1 then
        local found, wanted = call('HGET', key, words[at]), words[at + 1]
        if found ~= wanted and (found or wanted ~= 0) then return index, found end
      else
        local found = call('HMGET', key, unpack(words, at, at + n - 1))
        for i = 1, n do
          local wanted = words[at + n + i - 1]
          if found[i] ~= wanted and (found[i] or wanted ~= 0) then return index + i - 1, found[i] end
        end
      end
      index, at = index + n - 1, at + n + n
    elseif op == 'x' then -- a key exists
      if call('EXISTS', key) == 0 then return index, false end
    elseif op == 'b' then -- now is before a time
      if now >= n then return index, false end
    elseif op == 'f' then -- now is before the time in a field
      local limit = call('HGET', key, n)
      if not limit or now >= tonumber(limit) then return index, false end
    else -- 'n': a field that a write adds to is a number or absent
      local found = call('HGET', key, n)
      if found and not string.find(found, '^%-?%d+$') then return -3, found end
    end
    index = index + 1
  end
end

-- Adds to fields, before anything else is written; what cannot be added to undoes it all.
local function add(words)
  for at = 1, #words, 3 do
    local sum = redis.pcall('HINCRBY', keys[words[at]], words[at + 1], words[at + 2])
    if type(sum) == 'table' then
      for undo = at - 3, 1, -3 do call('HINCRBY', keys[words[undo]], words[undo + 1], -words[undo + 2]) end
      return -3, sum.err
    end
  end
end

local function write(words)
  local at, count = 1, #words
  while at < count do
    local last = at + 2 + words[at + 2]
    call(words[at], keys[words[at + 1]], unpack(words, at + 3, last))
    at = last + 1
  end
end

local function show(named)
  local all = {}
  for i = 1, #named do
    local key = keys[named[i]]
    local shape = call('TYPE', key).ok
    if shape == 'hash' then
      all[#all + 1] = { named[i], shape, call('HGETALL', key) }
    elseif shape == 'zset' then
      all[#all + 1] = { named[i], shape, call('ZRANGE', key, 0, -1, 'WITHSCORES') }
    end
  end
  return all
end

local function run()
  local done, at = {}, 1
  local commits, said = cmsgpack.unpack(ARGV[7]), ARGV[8]
  for c = 1, #commits do
    local commit = commits[c]
    local after, sizes = commit[1], commit[5]
    local start = at
    for i = 1, #sizes do at = at + sizes[i] end
    if after > 0 and not done[after] then
      results[c + 1] = { head, -2 }
    else
      local failed, found = check(commit[2])
      if not failed then failed, found = add(commit[3]) end
      if failed then
        results[c + 1] = { head, failed, found, show(commit[6]) }
      else
        write(commit[4])
        if #sizes > 0 then
          for i = 1, #sizes do
            head = head + 1
            lengths[head - first] = sizes[i]
          end
          entries[#entries + 1] = string.sub(said, start, at - 1)
        end
        done[c], results[c + 1] = true, head
      end
    end
  end
end

-- A command that fails on a key of the wrong shape must not leave the log behind what was applied before it.
local fine, failure = pcall(run)
if head > first then
  call('XADD', keys[2], 'MINID', '~', math.max(0, head - ARGV[6]) .. '-0', head .. '-0',
    'n', table.concat(lengths, ' '), 'd', table.concat(entries))
  call('HSET', keys[1], 'head', head)
  if call('PUBSUB', 'NUMSUB', ARGV[4])[2] > tonumber(ARGV[5]) then call('PUBLISH', ARGV[4], ARGV[3] .. ' ' .. head) end
end
if not fine then return redis.error_reply('FAULT ' .. tostring(type(failure) == 'table' and failure.err or failure)) end
return results
