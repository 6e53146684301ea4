-- wrk: POST one file over and over; at the end a line of JSON. Arguments: FILE CONTENT-TYPE
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = args[2]
  file:close()
end

function done(summary, latency)
  local errors = summary.errors
  local bad = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('\n{"good": %d, "bad": %d, "seconds": %.6f, "median_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests - errors.status, bad, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
