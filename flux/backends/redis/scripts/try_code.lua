-- Compares with a verification code, stored as "failed attempts, digest": {key, digest, tries}.

local key, digest, tries = prefix .. 'code:' .. given[1], given[2], given[3]
local kept = call('GET', key)
if not kept then
  return 'unknown'
end
local failed, right = string.match(kept, '^(%d+) (%x*)$')
if right == digest then
  call('DEL', key)
  return 'accepted'
end
if failed + 1 >= tries then
  call('DEL', key)
else
  call('SET', key, (failed + 1) .. ' ' .. right, 'KEEPTTL')
end
return 'wrong'
