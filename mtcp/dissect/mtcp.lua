-- Wireshark dissector of Migratory TCP: the TCP option (253, ExID 0x4D54) and the frames between agents.
--
--     tshark -X lua_script:mtcp.lua -r move.pcap -Y mtcp
--
-- The option is read after TCP's own dissector, from tcp.options.experimental. Frames are found by their magic, in
-- plain TCP and inside TLS that Wireshark can decrypt. Field names are those of mtcp/dissect/scapy_layers.py.

local mtcp = Proto("mtcp", "Migratory TCP")
local control = Proto("mtcp_control", "Migratory TCP, control connection")
local experiment = Field.new("tcp.options.experimental")

local EXID, OPTION_VERSION, FRAME_VERSION = 0x4D54, 1, 1
local HEAD, HEADER, MAX_BODY = 6, 12, 64 * 1024 * 1024

local SUBTYPES = {
    "CAPABLE", "MIGRATE", "ACCEPT", "ACK3", "ADD_SERVERS", "ADD_SERVERS_ACK", "REJECT", "ABORT", "ABORT_ACK", "QUERY",
    "HINT", "HINT_ACK", "REFUSAL",
}
local TYPES = { "STATE_REQUEST", "STATE_REPLY", "STATE_REJECT", "DONE", "DONE_ACK", "QUERY", "RELEASE" }
local REASONS = {
    "UNKNOWN_CONNECTION", "INVALID_STATE", "BAD_MAC", "STALE_ATTEMPT", "AHEAD", "BUSY", "LOG_OVERFLOW",
    "UNSUPPORTED_VERSION", "TOO_LARGE", "UNREACHABLE", "RESTORE_FAILED", "NO_APPLICATION", "NOT_ALLOWED", "DRAINING",
    "HELD",
}
local HINT_REASONS = { "OVERLOAD", "CONGESTION", "ATTACK", "DRAIN" }
local HINT_ANSWERS = { [0] = "WILL_MOVE", "DECLINED", "NOWHERE", "NOT_NOW" }

local unpack_ = table.unpack or unpack -- Lua 5.1

-- Every field: what it is called, ProtoField's kind, bytes, and what else ProtoField wants.
local field, size = {}, {}
local function define(name, kind, bytes, label, ...)
    field[name] = ProtoField[kind]("mtcp." .. name, label, ...)
    size[name] = bytes
end

define("exid", "uint16", 2, "Experiment", base.HEX)
define("subtype", "uint8", 1, "Subtype", base.DEC, SUBTYPES, 0xF0)
define("version", "uint8", 1, "Version", base.DEC, nil, 0x0F)
define("flags", "uint8", 1, "Flags", base.HEX)
define("flags.ipv6", "bool", 1, "Addresses are IPv6", 8, nil, 0x01)
define("reserved", "bytes", 2, "Reserved")
define("key", "bytes", 8, "Key of the connection")
define("mac", "bytes", 8, "MAC")
define("tag", "bytes", 8, "Tag (MAC of the MIGRATE)")
define("abort", "bytes", 8, "MAC of the ABORT")
define("proof", "bytes", 8, "Proof (MAC of the ABORT)")
define("attempt", "uint32", 4, "Attempt")
define("rcv_nxt", "uint32", 4, "Next byte that the client expects (rcv_nxt)")
define("reason", "uint16", 2, "Reason", base.DEC, REASONS)
define("list_version", "uint16", 2, "Version of the list")
define("index", "uint8", 1, "Index of this segment")
define("total", "uint8", 1, "Segments in all")
define("number", "uint32", 4, "Number of the hint")
define("hint_reason", "uint8", 1, "Reason of the hint", base.DEC, HINT_REASONS)
define("answer", "uint16", 2, "Answer", base.DEC, HINT_ANSWERS)
for _, name in ipairs({ "old_server", "server", "preferred", "old_local", "old_remote", "new_local", "new_remote" }) do
    local label = name:gsub("_", " ")
    define(name .. "_family", "uint8", 1, label .. ": family")
    define(name .. "_ip", "ipv4", 4, label .. ": address")
    define(name .. "_ip6", "ipv6", 16, label .. ": address")
    define(name .. "_port", "uint16", 2, label .. ": port")
end
define("magic", "string", 4, "Magic")
define("frame_version", "uint8", 1, "Version")
define("compat_version", "uint8", 1, "Oldest version that can read this")
define("type", "uint16", 2, "Type", base.DEC, TYPES)
define("length", "uint32", 4, "Length of the body")
for _, name in ipairs({
    "application_state_length", "write_buffer_length", "read_buffer_length", "rcv_seq_snapshot", "last_ack_sent",
    "snd_seq_snapshot", "snd_max_seen", "t_maxseg", "timestamp", "snd_wnd", "max_window", "rcv_wnd", "rcv_wup",
}) do
    define(name, "uint32", 4, name)
end
for _, name in ipairs({ "t_state", "t_state_transitions", "snd_wscale", "rcv_wscale" }) do
    define(name, "uint8", 1, name)
end
define("snd_bytes_discard", "uint64", 8, "snd_bytes_discard")
define("t_flags", "uint16", 2, "t_flags", base.HEX)
define("so_state", "uint8", 1, "so_state", base.HEX)
define("so_options", "uint32", 4, "so_options", base.HEX)
define("so_linger", "int32", 4, "so_linger")
define("application_state", "bytes", 0, "Application state")
define("write_buffer", "bytes", 0, "Write buffer")
define("read_buffer", "bytes", 0, "Read buffer")

local all = {}
for _, one in pairs(field) do
    all[#all + 1] = one
end
mtcp.fields = all
local malformed = ProtoExpert.new("mtcp.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
mtcp.experts = { malformed }

-- A body, taken apart from the left into the tree.
local Body = {}
Body.__index = Body

function Body:left()
    return self.range:len() - self.at
end

-- The next `n` bytes, put down as `name`; nil when there are none to take.
function Body:part(name, n)
    if n > self:left() then
        error({ text = string.format("%s needs %d bytes, %d are left", name, n, self:left()) })
    end
    if n == 0 then
        return nil
    end
    local part = self.range(self.at, n)
    self.at = self.at + n
    self.tree:add(field[name], part)
    return part
end

-- The values of these fields, 8-byte ones but for keeping.
function Body:read(...)
    local values = {}
    for _, name in ipairs({ ... }) do
        local part = self:part(name, size[name])
        values[#values + 1] = size[name] < 8 and part:uint() or false
    end
    return unpack_(values, 1, #values)
end

local function address(part)
    return tostring(part:len() == 4 and part:ipv4() or part:ipv6())
end

local function endpoint(ip, port)
    return string.format(ip:find(":", 1, true) and "[%s]:%d" or "%s:%d", ip, port)
end

-- Address and port, as options have them.
function Body:server(name)
    local ip = self:part(self.ipv6 and name .. "_ip6" or name .. "_ip", self.ipv6 and 16 or 4)
    return endpoint(address(ip), self:read(name .. "_port"))
end

-- Family, address in 16 bytes, port, as frames have them.
function Body:endpoint(name)
    local family = self:read(name .. "_family")
    if family ~= 4 and family ~= 6 then
        error({ text = string.format("address of family %d", family) })
    end
    local ip = self:part(family == 4 and name .. "_ip" or name .. "_ip6", family == 4 and 4 or 16)
    self.at = self.at + (family == 4 and 12 or 0)
    return endpoint(address(ip), self:read(name .. "_port"))
end

function Body:four_tuple(name)
    return self:endpoint(name .. "_local") .. " - " .. self:endpoint(name .. "_remote")
end

local function named(names, number)
    local name = names[number]
    if name == nil then
        error({ text = string.format("unknown number %d", number) })
    end
    return name
end

local function attempted(body)
    local attempt = body:read("attempt", "mac")
    return string.format(" attempt %d", attempt)
end

-- What each option says, in one line.
local OPTIONS = {
    CAPABLE = function(body)
        body:read("reserved")
        if body:left() == 0 then
            return ""
        end
        body:read("key")
        return ", with the connection's key"
    end,
    MIGRATE = function(body)
        local from = body:server("old_server")
        local rcv_nxt, attempt = body:read("rcv_nxt", "attempt", "mac")
        return string.format(" attempt %d from %s, rcv_nxt=%.0f", attempt, from, rcv_nxt)
    end,
    ACCEPT = attempted,
    ACK3 = attempted,
    ABORT = attempted,
    ABORT_ACK = attempted,
    QUERY = attempted,
    REFUSAL = function(body)
        return string.format(" attempt %d", (body:read("attempt", "abort", "mac")))
    end,
    REJECT = function(body)
        local attempt, reason = body:read("attempt", "reason", "tag")
        return string.format(" attempt %d: %s", attempt, named(REASONS, reason))
    end,
    ADD_SERVERS = function(body)
        local _, version, index, total = body:read("mac", "list_version", "index", "total")
        if index >= total then
            error({ text = string.format("segment %d of %d", index, total) })
        end
        local servers = {}
        while body:left() > 0 do
            servers[#servers + 1] = body:server("server")
        end
        local listed = #servers > 0 and table.concat(servers, " ") or "none"
        return string.format(" version %d (%d of %d): %s", version, index + 1, total, listed)
    end,
    ADD_SERVERS_ACK = function(body)
        return string.format(" version %d", (body:read("list_version", "mac")))
    end,
    HINT = function(body)
        local _, number, reason = body:read("mac", "number", "hint_reason")
        local text = string.format(" %d: %s", number, named(HINT_REASONS, reason))
        return body:left() == 0 and text or text .. ", to " .. body:server("preferred")
    end,
    HINT_ACK = function(body)
        local number, answer = body:read("number", "answer", "mac")
        return string.format(" %d: %s", number, named(HINT_ANSWERS, answer))
    end,
}

local function outcome(body)
    local old = body:four_tuple("old")
    local attempt = body:read("attempt", "tag")
    return string.format(" attempt %d of %s", attempt, old)
end

-- What each frame says, in one line.
local FRAMES = {
    STATE_REQUEST = function(body)
        local old, new = body:four_tuple("old"), body:four_tuple("new")
        local rcv_nxt, attempt = body:read("rcv_nxt", "attempt", "mac")
        return string.format(" attempt %d of %s, as %s, rcv_nxt=%.0f", attempt, old, new, rcv_nxt)
    end,
    STATE_REPLY = function(body)
        local old = body:four_tuple("old")
        body:read("tag")
        local state, written, read = body:read("application_state_length", "write_buffer_length", "read_buffer_length")
        body:read("rcv_seq_snapshot", "last_ack_sent", "snd_seq_snapshot", "snd_bytes_discard", "snd_max_seen")
        local attempt = body:read("attempt", "key")
        body:read("t_state", "t_state_transitions", "t_flags", "t_maxseg", "snd_wscale", "rcv_wscale", "timestamp")
        body:read("snd_wnd", "max_window", "rcv_wnd", "rcv_wup", "so_state", "so_options", "so_linger")
        body:part("application_state", state)
        body:part("write_buffer", written)
        body:part("read_buffer", read)
        local bytes = string.format("state %d, to send %d, to read %d bytes", state, written, read)
        return string.format(" attempt %d of %s: %s", attempt, old, bytes)
    end,
    STATE_REJECT = function(body)
        local old = body:four_tuple("old")
        local attempt, _, reason = body:read("attempt", "tag", "reason")
        return string.format(" attempt %d of %s: %s", attempt, old, named(REASONS, reason))
    end,
    DONE = outcome,
    DONE_ACK = outcome,
    QUERY = outcome,
    RELEASE = function(body)
        local text = outcome(body)
        body:read("proof")
        return text
    end,
}

-- What `name` says, which `readers` read in `body`; what is wrong with it goes into the tree, too.
local function say(readers, name, body)
    local good, result = pcall(function()
        local text = readers[name](body)
        if body:left() > 0 then
            error({ text = string.format("%d bytes too many", body:left()) })
        end
        return text
    end)
    if good then
        return name .. result
    end
    local text = type(result) == "table" and result.text or tostring(result)
    body.tree:add_proto_expert_info(malformed, text)
    return string.format("%s [malformed: %s]", name, text)
end

-- The option in `range`, from its kind on; its subtype and what it says.
local function dissect_option(range, tree)
    local length = range:len()
    local branch = tree:add(mtcp, range)
    if length < HEAD then
        branch:add_proto_expert_info(malformed, "cut short")
        return 0, "[malformed: cut short]"
    end
    branch:add(field.exid, range(2, 2))
    local what, flags = range(4, 1):uint(), range(5, 1):uint()
    branch:add(field.subtype, range(4, 1))
    branch:add(field.version, range(4, 1))
    branch:add(field.flags, range(5, 1)):add(field["flags.ipv6"], range(5, 1))
    local subtype, version = math.floor(what / 16), what % 16
    local name = SUBTYPES[subtype]
    if version ~= OPTION_VERSION or name == nil then
        local text = string.format("subtype %d of version %d is unknown", subtype, version)
        branch:add_proto_expert_info(malformed, text)
        return subtype, string.format("[malformed: %s]", text)
    end
    local rest = length > HEAD and range(HEAD, length - HEAD) or nil
    local body = setmetatable({ range = rest or { len = function() return 0 end }, at = 0, tree = branch }, Body)
    body.ipv6 = flags % 2 == 1
    local text = say(OPTIONS, name, body)
    branch:append_text(": " .. text)
    return subtype, text
end

function mtcp.dissector(_, pinfo, tree)
    for _, option in ipairs({ experiment() }) do
        local range = option.range
        if range:len() >= 4 and range(2, 2):uint() == EXID then
            local subtype, text = dissect_option(range, tree)
            pinfo.cols.protocol = "M-TCP"
            if subtype == 1 then
                pinfo.cols.info:append(" " .. text)
            else
                pinfo.cols.info:clear_fence()
                pinfo.cols.info = string.format("%d → %d %s", pinfo.src_port, pinfo.dst_port, text)
            end
        end
    end
end

register_postdissector(mtcp)

-- Control connections.

-- Whether a frame, or the first bytes of one, is there.
local function is_frame(tvb, offset)
    local n = math.min(4, tvb:len() - offset)
    return n > 0 and tvb(offset, n):string() == ("MTCP"):sub(1, n)
end

local function frame_length(tvb, _, offset)
    local length = tvb(offset + 8, 4):uint()
    if not is_frame(tvb, offset) or length > MAX_BODY then
        return tvb:len() - offset
    end
    return HEADER + length
end

local said

local function dissect_frame(tvb, pinfo, tree)
    local branch = tree:add(mtcp, tvb())
    local body = setmetatable({ range = tvb(), at = 0, tree = branch }, Body)
    local function fails(text)
        branch:add_proto_expert_info(malformed, text)
        said[#said + 1] = string.format("[malformed: %s]", text)
        return tvb:len()
    end
    if not is_frame(tvb, 0) then
        return fails("not a frame")
    end
    body:part("magic", 4)
    local _, compatible, kind, length = body:read("frame_version", "compat_version", "type", "length")
    local name = TYPES[kind]
    if compatible > FRAME_VERSION or name == nil or length > MAX_BODY then
        return fails(string.format("type %d, length %.0f, readable from version %d on", kind, length, compatible))
    end
    local text = say(FRAMES, name, body)
    branch:append_text(": " .. text)
    said[#said + 1] = text
    return tvb:len()
end

function control.dissector(tvb, pinfo, tree)
    if not is_frame(tvb, 0) then
        return 0 -- TLS, for one
    end
    said = {}
    pinfo.cols.protocol = "M-TCP"
    dissect_tcp_pdus(tvb, tree, HEADER, frame_length, dissect_frame)
    if #said > 0 then
        pinfo.cols.info = table.concat(said, " ") .. " "
    end
    return tvb:len()
end

local function heuristic(tvb, pinfo, tree)
    if tvb:len() < 4 or not is_frame(tvb, 0) then
        return false
    end
    pinfo.conversation = control
    return control.dissector(tvb, pinfo, tree) > 0
end

control:register_heuristic("tcp", heuristic)
control:register_heuristic("tls", heuristic)
-- Wireshark takes port 7000, where the testbed's agents listen, for another protocol's.
DissectorTable.get("tcp.port"):add(7000, control)
