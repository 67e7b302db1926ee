"""A client of PostgreSQL that does transactions for a given time, and writes down how long each took.

    python -m testbed.clients.transactions --servers s1=10.0.0.1:5432,s2=10.0.0.2:5432 --start-at 1234.5 --end-at 1254.5
        --mode transaction --think 0.05 --out DIR

Its transactions are those of testbed.clients.ledger, and it keeps the same books: DIR/said.json. The other files in
DIR: testbed.clients.record; a request is a transaction, until it is acknowledged. It stays with the first server.
With --leave-at it closes its connection then, between two transactions, and whenever that breaks, and goes on with a
new session at the next server, as an application would that looks after itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from mtcp.address import Endpoint
from mtcp.linux import tcp_info
from testbed.clients import ledger
from testbed.clients.http import servers
from testbed.clients.record import Record

TCP_INFO_SIZE = 256
CONNECT = 2
"""Seconds that a new session may take before the next server is tried."""
RETRY = ("40001", "25P02")
"""SQLSTATEs after which the transaction is done again."""


class Worker:
    """The session, wherever it is, and its books."""

    def __init__(self, options: argparse.Namespace, record: Record) -> None:
        self._options, self._record = options, record
        self._names = list(options.servers)
        self._draw = random.Random(1)
        self._connection: psycopg.Connection | None = None
        self._received = 0
        self.said: list[str] = []

    def work(self) -> None:
        """Until --end-at; psycopg.Error when the session breaks and nobody has said that it may leave."""
        options, leave_at = self._options, self._options.leave_at
        self._connect()
        print("ready", flush=True)
        time.sleep(max(0.0, options.start_at - time.monotonic()))
        self._record.started_ns = time.monotonic_ns()
        while time.monotonic() < options.end_at:
            if leave_at and time.monotonic() >= leave_at:
                leave_at = 0.0
                self._leave("policy")
            with self._record.request(options.mode):
                while not self._once():
                    pass
            time.sleep(self._draw.expovariate(1 / options.think) if options.think else 0)

    def _connect(self) -> None:
        server: Endpoint = self._options.servers[self._names[0]]
        where = f"host={server.ip} port={server.port} user=postgres dbname=postgres"
        self._connection = psycopg.connect(where, autocommit=True, connect_timeout=CONNECT)
        self._received = 0
        with socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
            self._record.opened(self._names[0], sock.getsockname()[1])

    def _leave(self, why: str) -> None:
        assert self._connection is not None
        old = self._names.pop(0)
        self._names.append(old)
        self._record.decided(old, self._names[0], why)
        self._connection.close()
        while True:
            try:
                return self._connect()
            except psycopg.OperationalError:
                if time.monotonic() > self._options.end_at:
                    raise
                self._names.append(self._names.pop(0))

    def _once(self) -> bool:
        """Try a transaction; whether it was acknowledged."""
        assert self._connection is not None
        values = {"session": 0, "number": len(self.said), "amount": self._draw.randint(-100, 100)}
        values["account"] = self._draw.randrange(ledger.ACCOUNTS)
        outcome = "broken"
        try:
            ledger.MODES[self._options.mode](self._connection, values)
            outcome = ""
        except psycopg.Error as error:
            if error.sqlstate in RETRY and not self._connection.broken:
                outcome = str(error.sqlstate)
            elif not self._options.leave_at:
                raise
        finally:
            self.said.append(outcome)
        if outcome == "broken":
            self._leave("error")
            return False
        self._note_bytes()
        return not outcome

    def _note_bytes(self) -> None:
        assert self._connection is not None
        with socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
            info = tcp_info.parse(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE))
        received = info["bytes_received"]
        if received > self._received:
            self._record.delivered(bytes(received - self._received), self._names[0])
            self._received = received


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=servers, required=True, metavar="NAME=ADDRESS:PORT,…")
    parser.add_argument("--start-at", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--end-at", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--leave-at", type=float, default=0.0, metavar="SECONDS", help="(never)")
    parser.add_argument("--mode", choices=ledger.MODES, default="transaction")
    parser.add_argument("--think", type=float, default=0.0, metavar="SECONDS", help="from one to the next, mean (0)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    record, error = Record(), ""
    worker = Worker(options, record)
    try:
        worker.work()
    except (psycopg.Error, OSError) as problem:
        error = str(problem).strip().replace("\n", " ")
        print(f"client: {error}", file=sys.stderr)
    record.ended_ns = time.monotonic_ns()
    options.out.mkdir(parents=True, exist_ok=True)
    books: dict[str, Any] = {"session": 0, "mode": options.mode, "said": worker.said}
    (options.out / "said.json").write_text(json.dumps({"sessions": [books], "broken": []}))
    record.write(options.out, error, {"workload": "transactions"})
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
