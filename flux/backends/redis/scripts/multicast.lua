-- Publishes events to the nodes where accounts have live routes, but not to the one that asks; how many it published.
--   {channels, node, boot, {{accounts, events for them}, ...}, most events in one message of Redis, most bytes}
--   An event is its JSON up to the accounts, with which it ends. There are one to MANY accounts in all.

local channels, asking_node, asking_boot, groups, most, most_bytes = unpack(given)

local accounts = {}
for _, group in ipairs(groups) do
  for _, account in ipairs(group[1]) do
    accounts[#accounts + 1] = account
  end
end

-- The channel of each account's node, where that is another one.
local channel_of = {}
for i, route in ipairs(call('HMGET', ROUTES, unpack(accounts))) do
  if route then
    local _, boot, node = parts(route)
    if live(node, boot) and not (node == asking_node and boot == asking_boot) then
      channel_of[accounts[i]] = channels .. boot .. ':' .. node
    end
  end
end

local waiting, bytes, published = {}, {}, 0

local function publish(channel)
  call('PUBLISH', channel, '[' .. table.concat(waiting[channel], ',') .. ']')
  waiting[channel] = nil
end

local function add(channel, text)
  local before = waiting[channel]
  if before and (#before == most or bytes[channel] + #text > most_bytes) then
    publish(channel)
    before = nil
  end
  if not before then
    waiting[channel], bytes[channel] = {}, 0
  end
  table.insert(waiting[channel], text)
  bytes[channel] = bytes[channel] + #text
  published = published + 1
end

for _, group in ipairs(groups) do
  local there = {}
  for _, account in ipairs(group[1]) do
    local channel = channel_of[account]
    if channel then
      there[channel] = there[channel] or {}
      table.insert(there[channel], account)
    end
  end
  for channel, some in pairs(there) do
    local ending = '[' .. table.concat(some, ',') .. ']}'
    for _, event in ipairs(group[2]) do
      add(channel, event .. ending)
    end
  end
end
for channel in pairs(waiting) do
  publish(channel)
end
return tostring(published)
