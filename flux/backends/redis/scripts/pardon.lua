-- Ends a ban: {address, its key}. Returns whether there was one.

local address, key = unpack(given)
local expires = call('ZSCORE', BANNED, address)
forget({key})
call('ZREM', BANNED, address)
return expires and tonumber(expires) > now and '1' or ''
