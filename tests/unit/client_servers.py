"""Servers for tests of client sessions: what each does to a connection is said beforehand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mtcp.address import Endpoint
from testbed.clients.connections import Broken, Connection, Refused

CONTENT = random.Random(1).randbytes(10_000)
PIECE = 100
REFUSE, HANG = -1, -2
"""Instead of a number of bytes: what becomes of the attempt to connect."""


@dataclass
class Servers:
    """All have CONTENT."""

    first: dict[str, list[int]] = field(default_factory=dict)
    """By name, for one connection after the other: bytes after which it breaks; negative: after which it is silent.
    Later connections are good."""
    opened: list[str] = field(default_factory=list)
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    closed: int = 0

    @property
    def addresses(self) -> dict[str, Endpoint]:
        return {name: Endpoint(f"10.0.0.{i}", 80) for i, name in enumerate(("s1", "s2", "s3"), 1)}

    def kind(self) -> type[Connection]:
        """Connections to these servers."""
        servers = self
        names = {endpoint: name for name, endpoint in self.addresses.items()}

        class Fake(Connection):
            local_port = 40000

            async def open(self, server: Endpoint) -> None:
                self.name = names[server]
                servers.opened.append(self.name)
                fates = servers.first.get(self.name, [])
                self.fate: int | None = fates.pop(0) if fates else None
                await asyncio.sleep(0)
                if self.fate == REFUSE:
                    raise Broken(f"{self.name} refuses")
                if self.fate == HANG:
                    await asyncio.Event().wait()

            async def fetch(self, path: str, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
                servers.asked.append((self.name, first, end))
                self.sent += 50
                content = CONTENT[first:end]
                if not content:
                    raise Refused(f"{self.name}: nothing there")
                pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
                # After the last byte an answer can still lack its end.
                for piece in (*pieces, b""):
                    if self.fate is not None and self.received + max(1, len(piece)) > abs(self.fate):
                        if self.fate < 0:
                            await asyncio.Event().wait()
                        raise Broken(f"{self.name} breaks")
                    await asyncio.sleep(0)
                    self.received += len(piece)
                    if piece:
                        yield piece

            def observed(self) -> Mapping[str, Any]:
                return {"srtt": 0.02}

            def close(self) -> None:
                servers.closed += 1

        return Fake
