-- A node gives its lease up: {node, boot}. Its routes are void without it.

local node, boot = unpack(given)
if call('HGET', BOOTS, node) == boot then
  call('ZREM', LEASES, node)
  call('HDEL', NODES, node)
end
return ''
