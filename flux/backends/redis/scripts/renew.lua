-- A heartbeat, or a later part of one: {node, boot, ttl, about, accounts, numbers}.
-- The first part has `about`, what the node says of itself, and sets the lease.
-- Answer: {superseded, draining, accounts that were lost, some accounts that have a route here and their numbers,
-- accounts that were restored, accounts whose routes were dropped with their nodes, whether this boot was known}.

local node, boot, ttl, about, accounts, numbers = unpack(given)
local draining = call('SISMEMBER', DRAINING, node) == 1
local newest = tonumber(call('HGET', BOOTS, node) or 0)
if tonumber(boot) < newest then
  return cmsgpack.pack({true, draining, {}, {}, {}, {}, false})
end

-- After an outage all leases have lapsed, and whoever comes back first must not judge the others.
local judges = live(node, boot)
holders[node] = nil

if about ~= '' then
  call('HSET', BOOTS, node, boot)
  call('ZADD', LEASES, now + ttl, node)
  call('HSET', NODES, node, now .. ' ' .. about)
  -- The count that was just set covers those who have arrived.
  local arrived = call('SMEMBERS', ARRIVED .. node)
  each('ZREM', RESERVED .. node, arrived)
  each('HDEL', RESERVATIONS, arrived)
  call('DEL', ARRIVED .. node)
end

local mine = ' ' .. boot .. ' ' .. node
local lost, restored, entries = {}, {}, {}
for from = 1, #accounts, MANY do
  local last = math.min(from + MANY - 1, #accounts)
  local held = call('HMGET', ROUTES, unpack(accounts, from, last))
  for i = from, last do
    local route, number = held[i - from + 1], numbers[i]
    if route ~= number .. mine then
      local other, its_boot, its_node
      if route then
        other, its_boot, its_node = parts(route)
      end
      if not route or tonumber(other) < tonumber(number) or not live(its_node, its_boot) then
        restored[#restored + 1] = accounts[i]
        entries[#entries + 1] = accounts[i]
        entries[#entries + 1] = number .. mine
      elseif tonumber(other) > tonumber(number) then
        lost[#lost + 1] = accounts[i]
      end
    end
  end
end
each('HSET', ROUTES, entries)

local boots = {}

local function known(node)
  if boots[node] == nil then
    boots[node] = call('HGET', BOOTS, node) and true
  end
  return boots[node]
end

local here, departed = {}, {}
if about ~= '' then
  -- Routes of nodes that are gone, and routes here of sessions that are: every heartbeat looks at some more of all routes,
  -- and at more while it finds the former.
  local looked, seen = call('HGET', LOOKED, node) or '0', 0
  repeat
    local page = call('HSCAN', ROUTES, looked, 'COUNT', 500)
    local dead = {}
    for i = 1, #page[2], 2 do
      local account = page[2][i]
      local number, its_boot, its_node = parts(page[2][i + 1])
      if not live(its_node, its_boot) then
        dead[#dead + 1] = account
        -- Of a node that has not been heard of since Redis was emptied nobody knows whether it died.
        if judges and known(its_node) then
          departed[#departed + 1] = account
        end
      elseif its_node == node then
        here[#here + 1] = account
        here[#here + 1] = number
      end
    end
    looked, seen = page[1], seen + #page[2] / 2
    if judges then
      each('HDEL', ROUTES, dead)
    end
  until not judges or #dead == 0 or looked == '0' or seen >= MANY
  call('HSET', LOOKED, node, looked)
  for _, key in ipairs({LEASES, NODES, ROUTES, LOOKED}) do
    call('PEXPIRE', key, KEEP)
  end
end
return cmsgpack.pack({false, draining, lost, here, restored, departed, newest == tonumber(boot)})
