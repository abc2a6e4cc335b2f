-- Claims, releases and looks at tokens, in the order given; one string each in the answer.
--   {'claim', account, route, takeover}   '1 ' or '0 ' for won or not, then the live route that was there
--   {'release', account, route}           ''
--   {'token', account}                    the digest, or ''

local function claim(account, route, takeover)
  local held = call('HGET', ROUTES, account)
  local previous = ''
  if held and held ~= route then
    local number, boot, node = parts(held)
    if live(node, boot) then
      if not takeover or tonumber(number) >= tonumber((parts(route))) then
        return '0 ' .. held
      end
      previous = held
    end
  end
  call('HSET', ROUTES, account, route)
  -- Counted by the next heartbeat of the server where the place was kept, wherever the login came to.
  local server = call('HGET', RESERVATIONS, account)
  if server then
    call('SADD', ARRIVED .. server, account)
    call('PEXPIRE', ARRIVED .. server, KEEP)
  end
  return '1 ' .. previous
end

local answers = {}
for i, asked in ipairs(given) do
  local what, account, route, takeover = unpack(asked)
  if what == 'claim' then
    answers[i] = claim(account, route, takeover)
  elseif what == 'release' then
    if call('HGET', ROUTES, account) == route then
      call('HDEL', ROUTES, account)
    end
    answers[i] = ''
  else
    answers[i] = call('GET', TOKEN .. account) or ''
  end
end
return cmsgpack.pack(answers)
