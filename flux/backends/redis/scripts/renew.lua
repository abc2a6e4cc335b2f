-- A heartbeat, or a later part of one: {node, boot, ttl, about, accounts, numbers}.
-- The first part has `about`, what the node says of itself, and sets the lease.
-- Answer: {superseded, draining, accounts that were lost}.

local node, boot, ttl, about, accounts, numbers = unpack(given)
local draining = call('SISMEMBER', DRAINING, node) == 1
local newest = tonumber(call('HGET', BOOTS, node) or 0)
if tonumber(boot) < newest then
  return cmsgpack.pack({true, draining, {}})
end

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
local lost, restored = {}, {}
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
        restored[#restored + 1] = number .. mine
      elseif tonumber(other) > tonumber(number) then
        lost[#lost + 1] = accounts[i]
      end
    end
  end
end
each('HSET', ROUTES, restored)

if about ~= '' then
  -- Routes of nodes that are gone: every heartbeat looks at some more of all routes.
  local page = call('HSCAN', ROUTES, call('GET', prefix .. 'routes:looked') or '0', 'COUNT', 200)
  local dead = {}
  for i = 1, #page[2], 2 do
    local _, its_boot, its_node = parts(page[2][i + 1])
    if not live(its_node, its_boot) then
      dead[#dead + 1] = page[2][i]
    end
  end
  each('HDEL', ROUTES, dead)
  call('SET', prefix .. 'routes:looked', page[1], 'PX', KEEP)
  for _, key in ipairs({LEASES, NODES, ROUTES}) do
    call('PEXPIRE', key, KEEP)
  end
end
return cmsgpack.pack({false, draining, lost})
