-- Counts a failure under each key: {window, most, keys}. No more than `most` counters are kept.

local window, most, keys = unpack(given)
for _, key in ipairs(keys) do
  tally(key, 1, window)
end
tidy(most, window)
return ''
