"""Lines over connections from one local port, kept open side by side. ports.py PORT

Its input: "open ADDRESS PORT", "say N" (a line over connection N and back), "close N" (and wait for the server's end).
It answers each with a line: "ok", or the error's name. The server echoes (testbed.services.stream, ECHO).
"""

from __future__ import annotations

import errno
import socket
import sys


def connect(port: int, address: str, server_port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(3)
    try:
        sock.bind(("", port))
        sock.connect((address, server_port))
        sock.sendall(b"ECHO\n")
    except OSError:
        sock.close()
        raise
    return sock


def say(sock: socket.socket) -> None:
    sock.sendall(b"something\n")
    assert sock.recv(10, socket.MSG_WAITALL) == b"something\n"


def main() -> None:
    port, socks = int(sys.argv[1]), []
    for line in sys.stdin:
        what, *words = line.split()
        try:
            if what == "open":
                socks.append(connect(port, words[0], int(words[1])))
            elif what == "say":
                say(socks[int(words[0])])
            else:
                socks[int(words[0])].close()
            print("ok", flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno or 0, type(error).__name__), flush=True)


if __name__ == "__main__":
    main()
