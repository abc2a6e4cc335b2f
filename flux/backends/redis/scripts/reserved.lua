-- The servers that accounts have a live reservation for: {account, server, account, server, ...}.

local found = {}
for from = 1, #given, MANY do
  local last = math.min(from + MANY - 1, #given)
  local servers = call('HMGET', RESERVATIONS, unpack(given, from, last))
  for i = from, last do
    local server = servers[i - from + 1]
    local expires = server and call('ZSCORE', RESERVED .. server, given[i])
    if expires and tonumber(expires) > now then
      found[#found + 1] = given[i]
      found[#found + 1] = server
    end
  end
end
return cmsgpack.pack(found)
