#!lua flags=allow-oom
-- Takes a slice's memory over where it is new, older or another process's; a compare-and-set, so that replicas agree.
-- KEYS: the meta record, the log stream. ARGV: this process's run_id, the least number, a random id.
local meta = redis.call('HMGET', KEYS[1], 'number', 'token', 'identity')
local number, at_least = tonumber(meta[1] or 0), tonumber(ARGV[2])
if meta[2] and meta[3] == ARGV[1] and number >= at_least then
  return { meta[1], meta[2] }
end
if not meta[2] then -- without its head, a log is no log
  redis.call('UNLINK', KEYS[2])
  redis.call('HDEL', KEYS[1], 'kept')
end
local time = redis.call('TIME')
local text = string.format('%.0f', math.max(number + 1, at_least, time[1] * 1000 + math.floor(time[2] / 1000)))
local token = text .. '-' .. ARGV[3]
redis.call('HSET', KEYS[1], 'number', text, 'token', token, 'identity', ARGV[1])
return { text, token }
