-- Counts a failure under each key: {window, most, keys}. No more than `most` counters are kept.

local window, most, keys = unpack(given)
local COUNTS, LAPSE = prefix .. 'failures', prefix .. 'failures:lapse'

local function forget(gone)
  each('HDEL', COUNTS, gone)
  each('ZREM', LAPSE, gone)
end

forget(call('ZRANGEBYSCORE', LAPSE, '-inf', now, 'LIMIT', 0, MANY))
for _, key in ipairs(keys) do
  local expires = call('ZSCORE', LAPSE, key)
  if expires and tonumber(expires) > now then
    call('HINCRBY', COUNTS, key, 1)
  else
    call('HSET', COUNTS, key, 1)
    call('ZADD', LAPSE, now + window, key)
  end
end
local over = call('ZCARD', LAPSE) - most
if over > 0 then
  forget(call('ZRANGE', LAPSE, 0, math.min(over, MANY) - 1))
end
call('PEXPIRE', COUNTS, math.max(KEEP, window))
call('PEXPIRE', LAPSE, math.max(KEEP, window))
return ''
