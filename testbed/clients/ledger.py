"""A client of PostgreSQL that keeps books of what it was told: does the database agree in the end?

    python -m testbed.clients.ledger run --host 10.0.0.1 --sessions 4 --seconds 20 > said.json
    python -m testbed.clients.ledger check --host 10.0.0.1 --said said.json

Each session numbers its transactions. A transaction adds an amount to an account and a line with its number to the
ledger; the client notes whether it was acknowledged, or with which SQLSTATE it failed. Standard input's end, or the
time's, ends it. `check` compares: each transaction that was acknowledged took place once, each that failed not at all
(with 08007, at most once), in the order of their numbers, and the accounts are the sums of the ledger.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

ACCOUNTS = 16
TABLES = """
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
CREATE TABLE ledger (entry bigserial, session int, number int, account int, amount int);
"""
UPDATE = "UPDATE accounts SET balance = balance + %(amount)s WHERE id = %(account)s"
INSERT = (
    "INSERT INTO ledger (session, number, account, amount) VALUES (%(session)s, %(number)s, %(account)s, %(amount)s)"
)
AT_ONCE = f"WITH updated AS ({UPDATE}) {INSERT} RETURNING number"
UNKNOWN = "08007"
"""The SQLSTATE that leaves it open."""
Values = dict[str, int]


def simple(connection: psycopg.Connection, values: Values) -> None:
    """One statement, by the simple protocol."""
    _same(psycopg.ClientCursor(connection).execute(AT_ONCE, values).fetchone(), values)


def extended(connection: psycopg.Connection, values: Values) -> None:
    """One statement, by the extended protocol; prepared when it has been used some times."""
    _same(connection.execute(AT_ONCE, values).fetchone(), values)


def transaction(connection: psycopg.Connection, values: Values) -> None:
    """Two statements and what is read between them."""
    with connection.transaction():
        connection.execute(UPDATE, values)
        connection.execute("SELECT balance FROM accounts WHERE id = %(account)s", values).fetchone()
        connection.execute(INSERT, values)


def pipeline(connection: psycopg.Connection, values: Values) -> None:
    """The same, sent ahead of its answers."""
    with connection.pipeline(), connection.transaction():
        connection.execute(UPDATE, values)
        connection.execute(INSERT, values)


MODES: dict[str, Callable[[psycopg.Connection, Values], None]] = {
    each.__name__: each for each in (simple, extended, transaction, pipeline)
}


def _same(row: Any, values: Values) -> None:
    if row != (values["number"],):
        raise AssertionError(f"number {values['number']} was answered with {row}")


class Session(threading.Thread):
    """One connection, and its books."""

    def __init__(self, conninfo: str, number: int, mode: str, until: Callable[[], bool], think: float) -> None:
        super().__init__(daemon=True)
        self._conninfo, self._until, self._think = conninfo, until, think
        self._draw = random.Random(number)
        self.number, self.mode = number, mode
        self.said: list[str] = []
        """By number: "" if acknowledged, else the SQLSTATE."""
        self.ms: list[float] = []
        """What each took."""
        self.begun: list[int] = []
        """CLOCK_MONOTONIC, ns."""
        self.broken = ""
        """What ended the session before its time."""

    def run(self) -> None:
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                connection.execute("SET application_name = 'ledger'")
                while not self._until():
                    self._one(connection)
                    time.sleep(self._draw.expovariate(1 / self._think) if self._think else 0)
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"

    def _one(self, connection: psycopg.Connection) -> None:
        values = {"session": self.number, "number": len(self.said), "amount": self._draw.randint(-100, 100)}
        values["account"] = self._draw.randrange(ACCOUNTS)
        begun = time.monotonic_ns()
        try:
            MODES[self.mode](connection, values)
            outcome = ""
        except psycopg.Error as error:
            if error.sqlstate is None or connection.broken:
                self.said.append("broken")
                raise
            outcome = error.sqlstate
        self.said.append(outcome)
        self.begun.append(begun)
        self.ms.append((time.monotonic_ns() - begun) / 1e6)


def run(conninfo: str, sessions: int, seconds: float, modes: list[str], think: float) -> dict[str, Any]:
    """All sessions until the time is over, or standard input."""
    stop = threading.Event()
    workers = [Session(conninfo, n, modes[n % len(modes)], stop.is_set, think) for n in range(sessions)]
    for worker in workers:
        worker.start()
    print("started", file=sys.stderr, flush=True)
    select.select([sys.stdin], [], [], seconds)
    stop.set()
    for worker in workers:
        worker.join()
    books = [
        {"session": w.number, "mode": w.mode, "said": w.said, "ms": w.ms, "begun_ns": w.begun, "broken": w.broken}
        for w in workers
    ]
    outcomes = Counter(outcome or "acknowledged" for worker in workers for outcome in worker.said)
    return {"sessions": books, "outcomes": dict(outcomes), "broken": [w.broken for w in workers if w.broken]}


def faults(said: dict[str, Any], lines: list[tuple[int, int, int, int]], balances: dict[int, int]) -> list[str]:
    """What is wrong. `lines`: session, number, account, amount of the ledger in its order; `balances`: by account."""
    found = list(said["broken"])
    times = Counter((session, number) for session, number, _, _ in lines)
    for book in said["sessions"]:
        session = book["session"]
        for number, outcome in enumerate(book["said"]):
            done = times.pop((session, number), 0)
            allowed = (1,) if not outcome else (0, 1) if outcome in (UNKNOWN, "broken") else (0,)
            if done not in allowed:
                told = outcome or "acknowledged"
                found.append(f"session {session} ({book['mode']}): number {number} ({told}) took place {done} times")
        order = [number for s, number, _, _ in lines if s == session]
        if order != sorted(order):
            found.append(f"session {session} ({book['mode']}): not in the order of its numbers")
    found += [f"session {session}: number {number} was never asked for" for session, number in times]
    sums = Counter[int]()
    for _, _, account, amount in lines:
        sums[account] += amount
    found += [
        f"account {account} has {balance}, its lines come to {sums[account]}"
        for account, balance in balances.items()
        if balance != sums[account]
    ]
    return found


def prepare(conninfo: str) -> None:
    """Make the tables anew."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS accounts, ledger")
        connection.execute(TABLES)
        connection.execute("INSERT INTO accounts SELECT generate_series(0, %s)", [ACCOUNTS - 1])


def check(conninfo: str, said: dict[str, Any]) -> list[str]:
    """As `faults`, of what the database has."""
    with psycopg.connect(conninfo) as connection:
        lines = connection.execute("SELECT session, number, account, amount FROM ledger ORDER BY entry").fetchall()
        balances: dict[int, int] = dict(connection.execute("SELECT id, balance FROM accounts").fetchall())
    return faults(said, lines, balances)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "check"))
    parser.add_argument("--said", type=Path, metavar="FILE", help="what `run` has printed")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=5432)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--think", type=float, default=0.0, help="mean seconds between transactions")
    parser.add_argument("--modes", default=",".join(MODES))
    options = parser.parse_args()
    conninfo = f"host={options.host} port={options.port} user=postgres dbname=postgres"
    if options.what == "prepare":
        prepare(conninfo)
    elif options.what == "run":
        print(json.dumps(run(conninfo, options.sessions, options.seconds, options.modes.split(","), options.think)))
    else:
        found = check(conninfo, json.loads(options.said.read_text()))
        print(json.dumps(found))
        return bool(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
