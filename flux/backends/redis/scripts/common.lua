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
local SINCE = prefix .. 'since'
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

local COUNTS, LAPSE = prefix .. 'failures', prefix .. 'failures:lapse'
local BANNED = prefix .. 'banned'

-- Count `by` more under a key; a counter lives `window` ms from its first. Returns what it has come to.
local function tally(key, by, window)
  local expires = call('ZSCORE', LAPSE, key)
  if expires and tonumber(expires) > now then
    return call('HINCRBY', COUNTS, key, by)
  end
  call('HSET', COUNTS, key, by)
  call('ZADD', LAPSE, now + window, key)
  return by
end

-- Call a command with a list of arguments of any length.
local function each(command, key, list)
  for from = 1, #list, MANY do
    call(command, key, unpack(list, from, math.min(from + MANY - 1, #list)))
  end
end

-- Forget counters.
local function forget(keys)
  each('HDEL', COUNTS, keys)
  each('ZREM', LAPSE, keys)
end

-- Forget the counters that have lapsed, and the first to lapse of those beyond `most`.
local function tidy(most, window)
  forget(call('ZRANGEBYSCORE', LAPSE, '-inf', now, 'LIMIT', 0, MANY))
  local over = call('ZCARD', LAPSE) - most
  if over > 0 then
    forget(call('ZRANGE', LAPSE, 0, math.min(over, MANY) - 1))
  end
  call('PEXPIRE', COUNTS, math.max(KEEP, window))
  call('PEXPIRE', LAPSE, math.max(KEEP, window))
end
