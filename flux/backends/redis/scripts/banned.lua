-- {address, milliseconds until its ban is over} of all bans.

local found = {}
local entries = call('ZRANGEBYSCORE', BANNED, '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #entries, 2 do
  found[#found + 1] = {entries[i], tonumber(entries[i + 1]) - now}
end
return cmsgpack.pack(found)
