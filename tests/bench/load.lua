-- Requests for wrk, numbered as in names.py. What comes after `--` on its command line:
--
--   METHOD  PATH  TOKEN  KIND  TAG  COUNT  [BODY FILE]
--
-- {id} in the path or the body becomes an id of that KIND (cas or keyvalue) and TAG, {shard} in the
-- path its folder. With a COUNT ids are drawn from so many at random; with 0 each is a new one.
-- What it came to is printed as one line of JSON.

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
local MOST_PREPARED = 1024

local function letter(number)
  local place = number % 64 + 1
  return alphabet:sub(place, place)
end

local names = {
  cas = function(tag, number)
    return string.format("00%02X%s%044X", number % 256, tag, number)
  end,
  keyvalue = function(tag, number)
    local shard = letter(number) .. letter(math.floor(number / 64))
    return string.format("0~%s%s%070X", shard, tag, number)
  end,
}

local function filled(template, id)
  if not template:find("{", 1, true) then
    return template
  end
  return (template:gsub("{id}", id):gsub("{shard}", id:sub(3, 4)))
end

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(arguments)
  local method, path, token, kind, tag, count, file = unpack(arguments)
  local headers = {
    ["Authorization"] = "Bearer " .. token,
    ["Content-Type"] = "application/octet-stream",
  }
  for name, value in pairs(wrk.headers) do -- from -H
    headers[name] = value
  end
  local body = file and contents(file)
  local has_id = body and body:sub(1, 1) == "{"
  count = tonumber(count)

  local function request_of(number)
    local id = names[kind](tag, number)
    headers["X-Request-ID"] = id -- as clients do: to make one costs nginx a system call
    return wrk.format(method, filled(path, id), headers, has_id and filled(body, id) or body)
  end

  if count == 0 then
    local number = -1
    request = function()
      number = number + 1
      return request_of(number)
    end
  elseif count <= MOST_PREPARED then
    local prepared = {}
    for number = 1, count do
      prepared[number] = request_of(number - 1)
    end
    request = function()
      return prepared[math.random(count)]
    end
  else
    request = function()
      return request_of(math.random(0, count - 1))
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
