"""A client, two servers with front-ends of PostgreSQL, and the one database of both.

                 client 10.0.0.100
                    |
                   sw1   service network 10.0.0.0/24, as in topologies/two_servers.py
                  /    \\
          10.0.0.1    10.0.0.2
               s1 ------ s2      control network 10.1.0.0/24
          10.2.1.1    10.2.2.2
                 \\     /         as fast as the machine is
          10.2.1.9    10.2.2.9
                    db           PostgreSQL on port 5432

The front-ends (testbed.services.postgres) listen on port 5432 of the servers, and on 5433 those of plain TCP, without
M-TCP, for comparison. As a script:

    sudo .venv/bin/python topologies/database.py --rtt 2ms

    client psql -h s1 -U postgres -P pager=off
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from testbed import database
from testbed.nodes import MtcpHost
from topologies import running as common
from topologies import two_servers

PORT, PLAIN_PORT = 5432, 5433
"""Of the front-ends."""
AT_DATABASE = {"s1": ("10.2.1.1", "10.2.1.9"), "s2": ("10.2.2.2", "10.2.2.9")}
"""By server: its end of the link to the database, and the database's."""


class WithDatabase(two_servers.TwoServers):
    """The network drawn above."""

    def build(self, *args: Any, **ways: Any) -> None:
        """Called by Mininet's Topo, with the parameters of two_servers."""
        super().build(*args, **ways)
        self.other("db", AT_DATABASE["s1"][1])
        for server, (own, its) in AT_DATABASE.items():
            self.link(server, "db", {}, params1={"ip": f"{own}/24"}, params2={"ip": f"{its}/24"})


topos = {"database": WithDatabase}


class Running(two_servers.Running):
    """The network, up and running."""

    def begin(self) -> None:
        """Start the database and, if there are agents, its front-ends."""
        self.pool.programs["database-db"] = database.start(self.others[0], self.logs)
        for server in self.servers:
            if self.agents:
                self.start_front_end(server)
            self.start_front_end(server, plain=True)

    def start_front_end(self, server: MtcpHost, plain: bool = False) -> None:
        """(Again) on a server; `plain`: the one without M-TCP."""
        port = PLAIN_PORT if plain else PORT
        peers = [f"{address}:{port}" for name, address in self.addresses.items() if name != server.name]
        options: list[str | int] = [
            "--port",
            port,
            "--database",
            f"{AT_DATABASE[server.name][1]}:{database.PORT}",
            "--peers",
            *peers,
        ]
        name = "plain-postgres" if plain else "postgres"
        self.pool.serve([server], "postgres", *options, *(["--plain"] if plain else []), name=name)


def running(**options: Any) -> AbstractContextManager[Running]:
    """Bring the network up; take it down at the end. `options`: see topologies.running.running."""
    return common.running(WithDatabase, Running, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.Parser("A client, two front-ends of PostgreSQL, their database, and Mininet's prompt.")
    greeting = (
        "\nPostgreSQL is on db; its front-ends are on s1 and s2:\n\n    client psql -h s1 -U postgres -P pager=off\n"
    )
    return common.script(WithDatabase, parser, greeting, Running)


if __name__ == "__main__":
    sys.exit(main())
