-- Records assignments, if there are any, and returns all loads: {hold, token_ttl, accounts, servers, digests}.
-- Answer: {now, {{node, what it says of itself}, ...}, {{server, reservations}, ...}, {draining, ...}, since}.

local hold, token_ttl, accounts, servers, digests = unpack(given)

if #accounts > 0 then
  -- Who is given twice stays where it was given last.
  local last = {}
  for i = 1, #accounts do
    last[accounts[i]] = i
  end
  local places, kept = {}, {}
  for account, i in pairs(last) do
    local server = servers[i]
    local before = call('HGET', RESERVATIONS, account)
    if before then
      call('SREM', ARRIVED .. before, account)
      if before ~= server then
        call('ZREM', RESERVED .. before, account)
      end
    end
    local entries = places[server] or {}
    places[server] = entries
    entries[#entries + 1] = now + hold
    entries[#entries + 1] = account
    kept[#kept + 1] = account
    kept[#kept + 1] = server
    call('SET', TOKEN .. account, digests[i], 'PX', token_ttl)
  end
  for server, entries in pairs(places) do
    each('ZADD', RESERVED .. server, entries)
    call('SADD', RESERVING, server)
    call('PEXPIRE', RESERVED .. server, math.max(KEEP, hold))
  end
  each('HSET', RESERVATIONS, kept)
  call('PEXPIRE', RESERVATIONS, math.max(KEEP, hold))
  call('PEXPIRE', RESERVING, math.max(KEEP, hold))
end

local lapsed = call('ZRANGEBYSCORE', LEASES, '-inf', now)
each('HDEL', NODES, lapsed)
each('ZREM', LEASES, lapsed)

local nodes = {}
for _, node in ipairs(call('ZRANGE', LEASES, 0, -1)) do
  local says = call('HGET', NODES, node)
  if says then
    nodes[#nodes + 1] = {node, says}
  end
end

local reserved = {}
for _, server in ipairs(call('SMEMBERS', RESERVING)) do
  local key = RESERVED .. server
  local over = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, MANY)
  each('ZREM', key, over)
  each('HDEL', RESERVATIONS, over)
  each('SREM', ARRIVED .. server, over)
  local count = call('ZCOUNT', key, '(' .. now, '+inf')
  if count > 0 then
    reserved[#reserved + 1] = {server, count}
  elseif #over < MANY then
    call('SREM', RESERVING, server)
  end
end

-- Gone with everything else when Redis is emptied, and another one then.
local since = call('GET', SINCE)
if since then
  call('PEXPIRE', SINCE, KEEP)
else
  since = clock[1] .. '.' .. clock[2]
  -- A full Redis takes none, and is read all the same.
  if redis.pcall('SET', SINCE, since, 'PX', KEEP)['err'] then
    since = ''
  end
end

return cmsgpack.pack({now, nodes, reserved, call('SMEMBERS', DRAINING), since})
