"""The program on a host's cgroup: announces M-TCP in the handshake and notes connections that both ends can move.

One program plays both roles. Client: CAPABLE on every SYN; a SYN-ACK with CAPABLE and a key makes an entry.
Server: only listeners on a port of map `listeners` answer CAPABLE, with a fresh key; all others, and every peer
without the option, get plain TCP, byte for byte. Callbacks are asked for only until the handshake is over.

R6 is the context, struct bpf_sock_ops.
"""

from __future__ import annotations

from mtcp.linux.bpf import macros
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R5, R6, R7, Assembler, Field, Helper
from mtcp.linux.bpf.layout import (
    ACCEPTED,
    CAPABLE_BYTE,
    ENTRY,
    OPTION_EXID,
    OPTION_KIND,
    SERVER,
    SYN_OPTION_LENGTH,
    SYNACK_OPTION_LENGTH,
    TUPLE,
    EntryFlag,
    EntryState,
    EventKind,
    Maps,
)

# enum in linux/bpf.h: what the program is called for
_CONNECT, _ACTIVE_ESTABLISHED, _PASSIVE_ESTABLISHED, _STATE, _LISTEN, _OPTION_LENGTH, _WRITE_OPTION = (
    3,
    4,
    5,
    10,
    11,
    14,
    15,
)
_STATE_FLAG, _WRITE_FLAG = 1 << 2, 1 << 6  # bpf_sock_ops_cb_flags
_AF_INET, _AF_INET6 = 2, 10
_TCP_CLOSE = 7
_SYN, _SYN_ACK = 0x02, 0x12
_SYNACK_COOKIE = 2  # args[0]: SYN cookies remember nothing, so there is nowhere to keep a key
_FROM_SYN = 1  # load_hdr_opt: look into the SYN that was received, not into this packet
_IPPROTO_TCP, _TCP_SAVE_SYN = 6, 27
_OK = 1


class _OPS:
    """struct bpf_sock_ops."""

    OP = Field(0, 4)
    ARGUMENT_0 = Field(4, 4)
    ARGUMENT_1 = Field(8, 4)
    FAMILY = Field(20, 4)
    REMOTE_IP4 = Field(24, 4)
    LOCAL_IP4 = Field(28, 4)
    REMOTE_IP6 = tuple(Field(32 + 4 * n, 4) for n in range(4))  # ::ffff:a.b.c.d in IPv6 sockets that speak IPv4
    LOCAL_IP6 = tuple(Field(48 + 4 * n, 4) for n in range(4))
    REMOTE_PORT = Field(64, 4)  # network order, in the last two bytes
    LOCAL_PORT = Field(68, 4)  # host order
    IS_FULLSOCK = Field(72, 4)
    CALLBACK_FLAGS = Field(84, 4)
    RCV_NXT = Field(100, 4)
    SND_NXT = Field(104, 4)
    TCP_FLAGS = Field(212, 4)


class _STACK:
    CONNECTION = Field(-40, TUPLE.SIZE)  # local first: egress key of the client, key of the server's maps
    REVERSED = Field(-80, TUPLE.SIZE)  # ingress key of the client
    OPTION = Field(-100, 20)
    OPTION_WORD = Field(-100, 4)  # kind, length, ExID
    OPTION_LENGTH = Field(-99, 1)
    OPTION_CAPABLE = Field(-96, 1)
    OPTION_REST = Field(-96, 4)
    OPTION_KEY_HIGH = Field(-92, 4)
    OPTION_KEY_LOW = Field(-88, 4)
    INDEX = Field(-104, 4)
    NUMBER = Field(-108, 4)
    KEY = Field(-120, 8)
    ACCEPTED = Field(-136, ACCEPTED.SIZE)
    EVENT = Field(-152, 16)


def program(maps: Maps) -> bytes:
    asm = Assembler()
    asm.mov(R6, R1)
    asm.load(R7, R6, _OPS.OP)
    for operation, label in (
        (_CONNECT, "connect"),
        (_LISTEN, "listen"),
        (_OPTION_LENGTH, "option length"),
        (_WRITE_OPTION, "write option"),
        (_ACTIVE_ESTABLISHED, "active established"),
        (_PASSIVE_ESTABLISHED, "passive established"),
        (_STATE, "state"),
    ):
        asm.jump("==", R7, operation, label)
    asm.label("done")
    asm.exit(_OK)
    _connect(asm)
    _listen(asm, maps)
    _option_length(asm, maps)
    _write_option(asm, maps)
    _active_established(asm, maps)
    _passive_established(asm, maps)
    _state(asm, maps)
    return asm.assemble()


def _connect(asm: Assembler) -> None:
    asm.label("connect")
    _change_callbacks(asm, add=_WRITE_FLAG)
    asm.goto("done")


def _listen(asm: Assembler, maps: Maps) -> None:
    """Children inherit the callback flag. The SYN is kept so that PASSIVE_ESTABLISHED can look for the option."""
    asm.label("listen")
    _if_not_registered(asm, maps, "done")
    _change_callbacks(asm, add=_WRITE_FLAG)
    asm.store(FP, _STACK.NUMBER, 1)
    asm.mov(R1, R6)
    asm.mov(R2, _IPPROTO_TCP)
    asm.mov(R3, _TCP_SAVE_SYN)
    asm.address_of(R4, FP, _STACK.NUMBER)
    asm.mov(R5, _STACK.NUMBER.size)
    asm.call(Helper.SETSOCKOPT)
    asm.goto("done")


def _option_length(asm: Assembler, maps: Maps) -> None:
    asm.label("option length")
    _by_direction(asm, "reserve on SYN", "reserve on SYN-ACK")
    asm.label("reserve on SYN")
    _reserve(asm, SYN_OPTION_LENGTH)

    asm.label("reserve on SYN-ACK")
    asm.load(R2, R6, _OPS.ARGUMENT_0)
    asm.jump("==", R2, _SYNACK_COOKIE, "done")
    _if_not_registered(asm, maps, "done")
    _load_capable(asm, _FROM_SYN, SYN_OPTION_LENGTH, "done")
    _read_tuple(asm)
    macros.lookup(asm, maps.handshakes, _STACK.CONNECTION, "first SYN-ACK")
    asm.goto("reserve with key")  # repeated SYN-ACKs carry the same key
    asm.label("first SYN-ACK")
    _pop(asm, maps.keys, _STACK.KEY, "done")
    macros.update(asm, maps.handshakes, _STACK.CONNECTION, _STACK.KEY, "done")
    asm.label("reserve with key")
    _reserve(asm, SYNACK_OPTION_LENGTH)


def _write_option(asm: Assembler, maps: Maps) -> None:
    """Only called where `_option_length` reserved; room that is not used is filled by the kernel with no-operations."""
    asm.label("write option")
    asm.store(FP, _STACK.OPTION_REST, 0)
    asm.store(FP, _STACK.OPTION_CAPABLE, CAPABLE_BYTE)
    _by_direction(asm, "write on SYN", "write on SYN-ACK")
    asm.label("write on SYN")
    _store_option(asm, SYN_OPTION_LENGTH)

    asm.label("write on SYN-ACK")
    _read_tuple(asm)
    macros.lookup(asm, maps.handshakes, _STACK.CONNECTION, "done")
    asm.load(R1, R0, Field(0, 4))
    asm.store(FP, _STACK.OPTION_KEY_HIGH, R1)
    asm.load(R1, R0, Field(4, 4))
    asm.store(FP, _STACK.OPTION_KEY_LOW, R1)
    _store_option(asm, SYNACK_OPTION_LENGTH)


def _active_established(asm: Assembler, maps: Maps) -> None:
    """The client: make the entry. It is in the maps before the handshake's last ACK goes out."""
    asm.label("active established")
    _change_callbacks(asm, remove=_WRITE_FLAG)
    _load_capable(asm, 0, SYNACK_OPTION_LENGTH, "done")
    _read_tuple(asm)
    _pop(asm, maps.free, _STACK.INDEX, "done")  # all entries in use: a plain connection
    macros.lookup(asm, maps.entries, _STACK.INDEX, "done")
    asm.mov(R7, R0)
    _initialise_entry(asm)
    macros.update(asm, maps.egress, _STACK.CONNECTION, _STACK.INDEX, "give back")
    for source, destination in (
        (TUPLE.SOURCE_IP, TUPLE.DESTINATION_IP),
        (TUPLE.DESTINATION_IP, TUPLE.SOURCE_IP),
        (TUPLE.SOURCE_PORT, TUPLE.DESTINATION_PORT),
        (TUPLE.DESTINATION_PORT, TUPLE.SOURCE_PORT),
    ):
        macros.copy(asm, FP, _STACK.REVERSED.part(destination), FP, _STACK.CONNECTION.part(source))
    macros.update(asm, maps.ingress, _STACK.REVERSED, _STACK.INDEX, "take out")
    _change_callbacks(asm, add=_STATE_FLAG)
    macros.emit_event(asm, maps, EventKind.ESTABLISHED, _STACK.INDEX, _STACK.EVENT)
    asm.goto("done")

    asm.label("take out")
    asm.load_map(R1, maps.egress)
    asm.address_of(R2, FP, _STACK.CONNECTION)
    asm.call(Helper.MAP_DELETE)
    asm.label("give back")
    asm.store(R7, ENTRY.WORD, EntryState.FREE)
    asm.load_map(R1, maps.free)
    asm.address_of(R2, FP, _STACK.INDEX)
    asm.mov(R3, 0)
    asm.call(Helper.MAP_PUSH)
    asm.goto("done")


def _initialise_entry(asm: Assembler) -> None:
    """All 0, then what the handshake says; the state word last, since the agent takes entries with one as complete."""
    current = ENTRY.SERVERS
    for offset in range(0, ENTRY.SIZE, 8):
        asm.store(R7, Field(offset, 8), 0)
    asm.load(R1, FP, _STACK.OPTION_KEY_HIGH)
    asm.store(R7, Field(ENTRY.KEY.offset, 4), R1)
    asm.load(R1, FP, _STACK.OPTION_KEY_LOW)
    asm.store(R7, Field(ENTRY.KEY.offset + 4, 4), R1)
    macros.copy(asm, R7, ENTRY.SOCKET, FP, _STACK.CONNECTION)
    macros.copy(asm, R7, current.part(SERVER.ADDRESS), FP, _STACK.CONNECTION.part(TUPLE.DESTINATION_IP))
    macros.copy(asm, R7, current.part(SERVER.PORT), FP, _STACK.CONNECTION.part(TUPLE.DESTINATION_PORT))
    asm.load(R1, R6, _OPS.RCV_NXT)
    asm.store(R7, ENTRY.RCV_START, R1)
    asm.store(R7, ENTRY.RCV_NXT, R1)
    asm.store(R7, current.part(SERVER.SEQ_MAX), R1)
    asm.load(R1, R6, _OPS.SND_NXT)
    asm.store(R7, ENTRY.SND_NXT, R1)
    asm.mov(R1, R6)
    asm.call(Helper.GET_SOCKET_COOKIE)
    asm.store(R7, ENTRY.COOKIE, R0)
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, ENTRY.LAST_SEEN, R0)
    asm.store(R7, ENTRY.WORD, EntryState.TRACKED)


def _passive_established(asm: Assembler, maps: Maps) -> None:
    """The server: what the agent needs of the handshake. A plain connection ends the record of an earlier one."""
    asm.label("passive established")
    _change_callbacks(asm, remove=_WRITE_FLAG)
    _read_tuple(asm)
    _load_capable(asm, _FROM_SYN, SYN_OPTION_LENGTH, "accepted plain")
    macros.lookup(asm, maps.handshakes, _STACK.CONNECTION, "accepted plain")
    asm.load(R1, R0, Field(0, 8))
    for value, field in ((None, ACCEPTED.KEY), (_OPS.RCV_NXT, ACCEPTED.RCV_NXT), (_OPS.SND_NXT, ACCEPTED.SND_NXT)):
        if value is not None:
            asm.load(R1, R6, value)
        asm.store(FP, _STACK.ACCEPTED.part(field), R1)
    macros.update(asm, maps.accepted, _STACK.CONNECTION, _STACK.ACCEPTED, "done")
    macros.delete(asm, maps.handshakes, _STACK.CONNECTION)
    asm.goto("done")
    asm.label("accepted plain")
    macros.delete(asm, maps.accepted, _STACK.CONNECTION)
    asm.goto("done")


def _state(asm: Assembler, maps: Maps) -> None:
    """The client's socket is in state CLOSE: say so once. TIME_WAIT comes after this."""
    asm.label("state")
    asm.load(R2, R6, _OPS.ARGUMENT_1)
    asm.jump("!=", R2, _TCP_CLOSE, "done")
    _read_tuple(asm)
    macros.find_entry(asm, maps, maps.egress, _STACK.CONNECTION, _STACK.INDEX, "done")
    asm.mov(R1, R6)
    asm.call(Helper.GET_SOCKET_COOKIE)
    asm.load(R1, R7, ENTRY.COOKIE)
    asm.jump("!=", R0, R1, "done")  # the entry is another connection's by now
    asm.mov(R1, EntryFlag.CLOSED)
    asm.atomic_fetch_or(R7, ENTRY.FLAGS, R1)
    asm.jump("&", R1, EntryFlag.CLOSED, "done")
    macros.emit_event(asm, maps, EventKind.CLOSED, _STACK.INDEX, _STACK.EVENT)
    asm.goto("done")


def _read_tuple(asm: Assembler) -> None:
    """The connection's 4-tuple to the stack. Uses R1."""
    ipv4, ports = asm.unique("ipv4"), asm.unique("ports")
    ends = (
        (_STACK.CONNECTION.part(TUPLE.SOURCE_IP), _OPS.LOCAL_IP4, _OPS.LOCAL_IP6),
        (_STACK.CONNECTION.part(TUPLE.DESTINATION_IP), _OPS.REMOTE_IP4, _OPS.REMOTE_IP6),
    )
    asm.load(R1, R6, _OPS.FAMILY)
    asm.jump("==", R1, _AF_INET, ipv4)
    for to, _, words in ends:
        for number, word in enumerate(words):
            asm.load(R1, R6, word)
            asm.store(FP, to.part(Field(4 * number, 4)), R1)
    asm.goto(ports)
    asm.label(ipv4)
    for to, address, _ in ends:
        macros.store_mapped_prefix(asm, to)
        asm.load(R1, R6, address)
        asm.store(FP, to.part(Field(12, 4)), R1)
    asm.label(ports)
    asm.load(R1, R6, _OPS.LOCAL_PORT)
    asm.swap_be(R1, 16)
    asm.store(FP, _STACK.CONNECTION.part(TUPLE.SOURCE_PORT), R1)
    asm.load(R1, R6, _OPS.REMOTE_PORT)
    asm.swap_be(R1, 32)
    asm.swap_be(R1, 16)
    asm.store(FP, _STACK.CONNECTION.part(TUPLE.DESTINATION_PORT), R1)


def _by_direction(asm: Assembler, syn: str, synack: str) -> None:
    """To `syn` for a client's SYN, to `synack` for a listener's SYN-ACK; all else, simultaneous opens too, is done."""
    asm.load(R2, R6, _OPS.TCP_FLAGS)
    asm.and_(R2, _SYN_ACK)
    asm.jump("==", R2, _SYN, syn)
    asm.jump("!=", R2, _SYN_ACK, "done")
    asm.load(R2, R6, _OPS.IS_FULLSOCK)
    asm.jump("==", R2, 0, synack)
    asm.goto("done")


def _if_not_registered(asm: Assembler, maps: Maps, label: str) -> None:
    asm.load(R1, R6, _OPS.LOCAL_PORT)
    asm.store(FP, _STACK.NUMBER, R1)
    macros.lookup(asm, maps.listeners, _STACK.NUMBER, label)


def _change_callbacks(asm: Assembler, add: int = 0, remove: int = 0) -> None:
    """Other programs' flags stay."""
    asm.mov(R1, R6)
    asm.load(R2, R6, _OPS.CALLBACK_FLAGS)
    asm.or_(R2, add)
    asm.and_(R2, ~remove)
    asm.call(Helper.SOCK_OPS_CB_FLAGS_SET)


def _load_capable(asm: Assembler, flags: int, length: int, missing: str) -> None:
    """CAPABLE of our version and this length to the stack."""
    for offset in range(0, _STACK.OPTION.size, 4):
        asm.store(FP, Field(_STACK.OPTION.offset + offset, 4), 0)
    _store_option_word(asm, 4)  # 4: search for kind and a 2-byte ExID
    asm.mov(R1, R6)
    asm.address_of(R2, FP, _STACK.OPTION)
    asm.mov(R3, _STACK.OPTION.size)
    asm.mov(R4, flags)
    asm.call(Helper.LOAD_HDR_OPT)
    asm.jump("!=", R0, length, missing)
    asm.load(R1, FP, _STACK.OPTION_CAPABLE)
    asm.jump("!=", R1, CAPABLE_BYTE, missing)


def _store_option_word(asm: Assembler, length: int) -> None:
    asm.mov(R1, OPTION_KIND << 24 | length << 16 | OPTION_EXID, bits=32)
    asm.swap_be(R1, 32)
    asm.store(FP, _STACK.OPTION_WORD, R1)


def _reserve(asm: Assembler, length: int) -> None:
    asm.mov(R1, R6)
    asm.mov(R2, length)
    asm.mov(R3, 0)
    asm.call(Helper.RESERVE_HDR_OPT)
    asm.goto("done")


def _store_option(asm: Assembler, length: int) -> None:
    _store_option_word(asm, length)
    asm.mov(R1, R6)
    asm.address_of(R2, FP, _STACK.OPTION)
    asm.mov(R3, length)
    asm.mov(R4, 0)
    asm.call(Helper.STORE_HDR_OPT)
    asm.goto("done")


def _pop(asm: Assembler, queue: int, to: Field, empty: str) -> None:
    asm.load_map(R1, queue)
    asm.address_of(R2, FP, to)
    asm.call(Helper.MAP_POP)
    asm.jump("!=", R0, 0, empty)
