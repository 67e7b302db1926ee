"""Somebody in the middle of the control network: agents reach each other through proxies that see every frame."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mtcp import pki
from mtcp.errors import RemoteProtocolError
from mtcp.wire import frames
from mtcp.wire.frames import Frame, FrameReader
from testbed import sandbox
from testbed.namespaces import enter_network_of
from testbed.pool import Pool, Server, pool_toml
from tests.root.faults_paths import Passing

PORT = 7100
"""Where proxies listen: at the control address of the agent for which they stand."""
REFUSAL = 0.05
"""Seconds after which it is plain to the dialling agent that the other one is not there."""
LINGER = 0.3
"""Seconds after the death of an agent in which what it sent and a rule holds can still be delivered."""
Meet = Callable[[Passing], None]
Alter = Callable[[Frame], Frame | None]


class Proxy:
    """Stands for the agent of `other`, on its host, towards that of `own`: it has the credentials of both."""

    def __init__(self, host: Any, own: Server, other: Server, credentials: Path, meet: Meet) -> None:
        """`host`: of `other`."""
        self._as_other, self._as_own = (
            pki.server_context(credentials, other.name),
            pki.client_context(credentials, own.name),
        )
        self._host, self._own, self._other, self._meet = host, own, other, meet
        self.alter: Alter = lambda frame: frame
        """What is made of every frame before anything else; None: it is lost."""
        self.at = f"{_address(other.control)[0]}:{PORT}"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy {own.name}-{other.name}", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError(f"the proxy at {self.at} does not start")

    def _run(self) -> None:
        enter_network_of(self._host.pid)
        asyncio.set_event_loop(self._loop)
        listening = asyncio.start_server(self._serve, *_address(self.at), ssl=self._as_other)
        server = self._loop.run_until_complete(listening)
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def reset(self) -> None:
        """Close all connections, at both ends; new ones may come."""

        def close() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), self._closing(writer):
            try:
                onward = await self._dial()
            except OSError:
                await asyncio.sleep(REFUSAL)
                raise
            with self._closing(onward[1]):
                pumps = [
                    asyncio.create_task(self._pump(reader, onward[1], self._own.name, self._other.name)),
                    asyncio.create_task(self._pump(onward[0], writer, self._other.name, self._own.name)),
                ]
                # The end of one direction is that of the connection, for agents.
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(LINGER)
                for pump in pumps:
                    pump.cancel()

    @contextlib.contextmanager
    def _closing(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = _address(self._other.control)
        return await asyncio.open_connection(*address, ssl=self._as_own, server_hostname=self._other.name)

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, sender: str, receiver: str) -> None:
        cutter = FrameReader()
        with contextlib.suppress(OSError, RemoteProtocolError):
            while data := await source.read(1 << 16):
                for frame in cutter.feed(data):
                    altered = self.alter(frame)
                    if altered is not None:
                        forward, port = self._forward(to, altered), frame.old.remote.port
                        self._meet(Passing(kind_of(frame), port, sender, receiver, forward))

    def _forward(self, to: asyncio.StreamWriter, frame: Frame) -> Callable[[], None]:
        def write() -> None:
            if not to.is_closing():
                to.write(frames.encode(frame))

        def forward() -> None:
            if threading.current_thread() is self._thread:
                write()
            else:
                self._loop.call_soon_threadsafe(write)

        return forward

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def kind_of(frame: Frame) -> str:
    """As the tests call it: QUERY is the name of an option, too."""
    return "QUERY frame" if isinstance(frame, frames.Query) else frame.type.name


def _address(text: str) -> tuple[str, int]:
    ip, port = text.rsplit(":", 1)
    return ip, int(port)


class ProxiedPool(Pool):
    """A pool each of whose servers has proxies in the place of the others."""

    def __init__(self, servers: Sequence[Server], hosts: Sequence[Any], logs: Path, meet: Meet):
        """`hosts`: those of `servers`, in their order."""
        super().__init__(servers, logs)
        self.write_files()
        self.proxies: list[Proxy] = []
        for own in servers:
            known = [own]
            for host, other in zip(hosts, servers, strict=True):
                if other != own:
                    self.proxies.append(Proxy(host, own, other, self.credentials, meet))
                    known.append(other._replace(control=self.proxies[-1].at))
            where = f'credentials = "{self.credentials.name}"\n'
            self.pool_file(own.name).write_text(where + pool_toml(known))

    def pool_file(self, name: str) -> Path:
        return sandbox.RUN / f"pool-{name}.toml"

    def stop(self) -> None:
        super().stop()
        for proxy in self.proxies:
            proxy.close()
