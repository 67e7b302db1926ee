"""What a client's agent shows a connection's policy, and when."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.agent.probing import Servers
from mtcp.linux import tcp_info
from mtcp.linux.datapath import Entry
from mtcp.linux.sockdiag import SockDiag
from mtcp.policy import Policy, View
from mtcp.policy.kernel import observed


class Observer:
    """Of one connection."""

    def __init__(self, entry: Entry, policy: Callable[[], Policy], sockets: SockDiag, servers: Servers) -> None:
        self.at: float | None = None
        """When to ask the policy."""
        self._sockets, self._servers = sockets, servers
        self._seen = entry
        self._received = self._sent = self._widest = 0
        self.obey(policy)

    def obey(self, policy: Callable[[], Policy]) -> None:
        """From now on show one of these."""
        self.policy = policy()
        self.again(time.monotonic())

    def again(self, now: float) -> None:
        """The policy has been asked, or is not to be asked now."""
        self.at = None if self.policy.interval is None else now + self.policy.interval

    def end(self) -> None:
        """The connection is closed."""
        self.policy, self.at = Policy(), None

    def view(self, entry: Entry, current: Endpoint, others: tuple[Endpoint, ...], now: float) -> View:
        """The connection, which `current` has, as of `entry`."""
        self._received += seq.diff(entry.rcv_nxt, self._seen.rcv_nxt)
        self._sent += seq.diff(entry.snd_nxt, self._seen.snd_nxt)
        self._seen = entry
        self._widest = max(self._widest, entry.window)
        room = entry.window / self._widest if self._widest else None
        kernel = self._of_kernel(entry.four_tuple) if self.policy.wants_kernel else {}
        known = self._servers.known((current, *others), now)
        return View(now, current, others, self._received, self._sent, room, servers=known, **kernel)

    def _of_kernel(self, four_tuple: FourTuple) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            if (found := self._sockets.find(four_tuple)) is not None:
                return observed(tcp_info.parse(found.info), time.monotonic())
        return {}
