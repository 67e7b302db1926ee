"""An application that ruins its capsule, and echoes behind the library's back. A client's first line says how:

    FIELD NUMBER [FIELD NUMBER ...]    fields of the capsule's header, named as in docs/wire.md, `slot_` for both slots'

python tests/services/broken.py --port 7103
"""

from __future__ import annotations

import argparse
import contextlib
import os
import struct

import mtcp
from mtcp.capsule import Capsule
from testbed.services.threads import serve_forever

FIELDS = {
    "magic": [(0, "Q")],
    "fence": [(12, "I")],
    "current": [(16, "I")],
    "overflow": [(20, "I")],
    "log_size": [(24, "I")],
    "state_max": [(28, "I")],
    "read_offset": [(32, "Q")],
    "write_offset": [(40, "Q")],
    "swallow": [(48, "Q")],
    "ended": [(56, "I")],
    "slot_length": [(128, "I"), (160, "I")],
    "slot_bits": [(132, "I"), (164, "I")],
    "slot_rcv_offset": [(136, "Q"), (168, "Q")],
    "slot_snd_offset": [(144, "Q"), (176, "Q")],
}


def ruin(capsule: Capsule, names: list[str], numbers: list[str]) -> None:
    for name, number in zip(names, numbers, strict=True):
        for offset, code in FIELDS[name]:
            size = struct.calcsize(code)
            struct.pack_into("=" + code, capsule.memory, offset, int(number) % (1 << 8 * size))


def serve(connection: mtcp.Connection) -> None:
    capsule = connection._capsule
    sock = connection._sock
    assert capsule is not None
    if connection.import_state() is not None:
        connection.close()
        return
    sock.setblocking(True)
    words = sock.recv(1000).decode().split()
    if words[0] == "noise":
        capsule.memory[12:4096] = os.urandom(4084)
    else:
        ruin(capsule, words[::2], words[1::2])
    with connection, contextlib.suppress(OSError):
        sock.sendall(b"ruined\n")
        while data := sock.recv(1000):
            sock.sendall(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-max", type=int, default=1 << 20)
    options = parser.parse_args()
    with mtcp.listen(("", options.port), state_max=options.state_max) as listener:
        print("listening", flush=True)
        serve_forever(listener, serve)


if __name__ == "__main__":
    main()
