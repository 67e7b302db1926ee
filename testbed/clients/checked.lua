-- For wrk: every answer's body must be the bytes of a file, given after `--`. Prints how many were not, and how many were.
local threads = {}
wrong, right = 0, 0

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    local file = assert(io.open(args[1], "rb"))
    expected = file:read("*a")
    file:close()
end

function response(status, headers, body)
    if status == 200 and body == expected then
        right = right + 1
    else
        wrong = wrong + 1
    end
end

function done(summary, latency, requests)
    local wrong, right = 0, 0
    for _, thread in ipairs(threads) do
        wrong, right = wrong + thread:get("wrong"), right + thread:get("right")
    end
    local errors, names = {}, {"connect", "read", "write", "status", "timeout"}
    for i, name in ipairs(names) do
        errors[i] = string.format('"%s": %d', name, summary.errors[name])
        errors.sum = (errors.sum or 0) + summary.errors[name]
    end
    print(string.format('{"right": %d, "wrong": %d, "errors": %d, %s}', right, wrong, errors.sum,
        table.concat(errors, ", ")))
end
