-- Asks for one of many objects at random. The path up to their number, and how many there are,
-- come as arguments.
local prefix, objects

init = function(arguments)
  prefix, objects = arguments[1], tonumber(arguments[2])
  math.randomseed(os.time())
end

request = function()
  return wrk.format("GET", prefix .. math.random(objects))
end
