#!lua flags=allow-oom
-- Forgets log entries below a sequence. What one call has appended is one entry of the stream: as long as a part of it
-- is kept, all of it is, and `kept` says from where on it may be shown.
-- KEYS: the meta record, the log stream. ARGV: this process's run_id, the least sequence to keep.
local meta = redis.call('HMGET', KEYS[1], 'head', 'kept')
local least = string.format('%.0f', math.max(meta[2] or 0, math.min(ARGV[2], (meta[1] or 0) + 1)))
redis.call('HSET', KEYS[1], 'kept', least)
redis.call('XTRIM', KEYS[2], 'MINID', least .. '-0')
return redis.status_reply('OK')
