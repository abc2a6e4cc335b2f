-- Counts offences and bans who has come to `limit`: {limit, window, ban, most counters, most bans, addresses, their
-- keys, how many more}. Returns the addresses that are banned from now on.

local limit, window, ban, most_counters, most_bans, addresses, keys, counts = unpack(given)
call('ZREMRANGEBYSCORE', BANNED, '-inf', now)
local banned = {}
for i, address in ipairs(addresses) do
  if not call('ZSCORE', BANNED, address) and tally(keys[i], counts[i], window) >= limit then
    forget({keys[i]})
    call('ZADD', BANNED, now + ban, address)
    banned[#banned + 1] = address
  end
end
tidy(most_counters, window)
local over = call('ZCARD', BANNED) - most_bans
if over > 0 then
  call('ZREMRANGEBYRANK', BANNED, 0, over - 1)
end
local last = call('ZREVRANGE', BANNED, 0, 0, 'WITHSCORES')
if last[2] then
  call('PEXPIREAT', BANNED, last[2])
end
return cmsgpack.pack(banned)
