"""The agent's side of the race for the state word: a program of type SYSCALL that Python runs with a COMMAND.

Python cannot compare and exchange in shared memory; this can.
"""

from __future__ import annotations

from mtcp.linux.bpf import macros
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R6, R7, R8, Assembler, Field
from mtcp.linux.bpf.layout import COMMAND, ENTRY, SERVER, Maps

DONE = 1  # the word was EXPECTED and is REPLACEMENT now
REFUSED = 0  # the word, or the connection in this entry, is another; nothing was changed that anyone looks at

_INDEX = Field(-4, 4)


def program(maps: Maps) -> bytes:
    asm = Assembler()
    asm.mov(R6, R1)
    asm.load(R1, R6, COMMAND.INDEX)
    asm.store(FP, _INDEX, R1)
    macros.lookup(asm, maps.entries, _INDEX, "refused")
    asm.mov(R7, R0)
    asm.load(R8, R6, COMMAND.EXPECTED)
    for expected, actual in ((COMMAND.COOKIE, ENTRY.COOKIE), (COMMAND.EXPECTED, ENTRY.WORD)):
        asm.load(R1, R6, expected)
        asm.load(R2, R7, actual)
        asm.jump("!=", R1, R2, "refused")
    asm.load(R2, R6, COMMAND.NEXT_PORT)
    asm.jump("==", R2, 0, "exchange")
    # The slot that is not current: nobody looks at it before the exchange. What the client has acknowledged, the next
    # server will have sent, so that is a safe start for the highest sequence number seen from it.
    macros.slot(asm, R3, R8, current=False)
    asm.store(R3, macros.server(SERVER.PORT), R2)
    macros.copy(asm, R3, macros.server(SERVER.ADDRESS), R6, COMMAND.NEXT_ADDRESS)
    macros.copy(asm, R3, macros.server(SERVER.INTERFACE), R6, COMMAND.NEXT_INTERFACE)
    macros.copy(asm, R7, ENTRY.ACCEPT_MAC, R6, COMMAND.ACCEPT_MAC)
    asm.load(R1, R7, ENTRY.RCV_NXT)
    asm.store(R3, macros.server(SERVER.SEQ_MAX), R1)
    _hide_gap(asm)
    asm.goto("change")
    asm.label("exchange")
    asm.store(R7, ENTRY.HIDES_GAP, 0)  # the server that sent them has the connection again
    asm.label("change")
    asm.mov(R0, R8)
    asm.load(R1, R6, COMMAND.REPLACEMENT)
    asm.compare_exchange(R7, ENTRY.WORD, R1)
    asm.jump("!=", R0, R8, "refused")
    asm.exit(DONE)
    asm.label("refused")
    asm.exit(REFUSED)
    return asm.assemble()


def _hide_gap(asm: Assembler) -> None:
    """What the client has of the current server's data (slot by R8) behind a gap is nothing to tell the next one."""
    asm.load(R1, R7, ENTRY.HAS_GAP)
    asm.load(R2, R7, ENTRY.HIDES_GAP)
    asm.or_(R1, R2)
    asm.jump("==", R1, 0, "no gap")
    macros.slot(asm, R3, R8, current=True)
    asm.load(R3, R3, macros.server(SERVER.SEQ_MAX))
    asm.jump("==", R2, 0, "first gap")
    macros.store_latest(asm, R7, ENTRY.GAP_END, R3)
    asm.goto("no gap")
    asm.label("first gap")
    asm.store(R7, ENTRY.GAP_END, R3)
    asm.store(R7, ENTRY.HIDES_GAP, 1)
    asm.label("no gap")
