-- Per key: {failures counted, milliseconds until they are forgotten}.

local counted = {}
for i, key in ipairs(given) do
  local expires = call('ZSCORE', LAPSE, key)
  local left = expires and tonumber(expires) - now or 0
  if left > 0 then
    counted[i] = {tonumber(call('HGET', COUNTS, key)), left}
  else
    counted[i] = {0, 0}
  end
end
return cmsgpack.pack(counted)
