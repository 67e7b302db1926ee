"""Sends each line of its input over one connection and prints the line that comes back. lines.py ADDRESS PORT"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock, sock.makefile("rb") as answers:
        for line in sys.stdin.buffer:
            sock.sendall(line)
            print(answers.readline().decode().strip(), flush=True)


if __name__ == "__main__":
    main()
