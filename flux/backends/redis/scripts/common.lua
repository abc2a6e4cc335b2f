-- In front of every script: what it was given, what time it is, which leases live.
-- Accounts and boots are strings, since a number here is exact up to 2^53 only.

local prefix = ARGV[1]
local given = cmsgpack.unpack(ARGV[2])
local call = redis.call

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Keys that nobody has touched for a day go by themselves.
local KEEP = 86400000
-- Arguments of one command; the stack of Lua takes 8,000.
local MANY = 4000

local BOOTS, LEASES, NODES, DRAINING = prefix .. 'boots', prefix .. 'leases', prefix .. 'nodes', prefix .. 'draining'
local ROUTES, LOOKED = prefix .. 'routes', prefix .. 'routes:looked'
local RESERVED, RESERVING, RESERVATIONS = prefix .. 'reserved:', prefix .. 'reserving', prefix .. 'reservations'
local ARRIVED, TOKEN = prefix .. 'arrived:', prefix .. 'token:'

local holders = {}

-- Whether the lease of this boot of this node lives.
local function live(node, boot)
  local holder = holders[node]
  if holder == nil then
    local expires = call('ZSCORE', LEASES, node)
    holder = expires and tonumber(expires) > now and call('HGET', BOOTS, node)
    holders[node] = holder
  end
  return holder == boot
end

-- A route as it is stored, "number boot node", taken apart.
local function parts(route)
  return string.match(route, '^(%d+) (%d+) (.*)$')
end

-- Call a command with a list of arguments of any length.
local function each(command, key, list)
  for from = 1, #list, MANY do
    call(command, key, unpack(list, from, math.min(from + MANY - 1, #list)))
  end
end
