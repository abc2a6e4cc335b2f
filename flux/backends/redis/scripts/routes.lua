-- The live routes among accounts: {account, route, account, route, ...}.

local found = {}
for from = 1, #given, MANY do
  local last = math.min(from + MANY - 1, #given)
  local held = call('HMGET', ROUTES, unpack(given, from, last))
  for i = from, last do
    local route = held[i - from + 1]
    if route then
      local _, boot, node = parts(route)
      if live(node, boot) then
        found[#found + 1] = given[i]
        found[#found + 1] = route
      end
    end
  end
end
return cmsgpack.pack(found)
