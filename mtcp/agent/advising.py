"""A server's policy at work: its agent looks at the host, and asks clients to leave when the policy says so."""

from __future__ import annotations

import logging
import os
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from mtcp.linux.netstat import counters
from mtcp.linux.pressure import CpuPressure, RunDelay
from mtcp.linux.sockdiag import SockDiag
from mtcp.policy import HostView, ServerPolicy
from mtcp.states import OldServer

if TYPE_CHECKING:
    from mtcp.agent.holding import ServerConnection
    from mtcp.agent.server import ServerSide

log = logging.getLogger(__name__)


class HostWatch:
    """What a policy is shown of the host."""

    def __init__(self, cgroup: Path) -> None:
        """`cgroup`: of version 2, with all processes of the host. MtcpError when the kernel lacks something."""
        self._pressure = CpuPressure(cgroup)
        self._delay = RunDelay()
        self._sockets = SockDiag()
        # "self" is the process, not the thread: an agent has one network namespace.
        self._netstat = os.open("/proc/self/net/netstat", os.O_RDONLY | os.O_CLOEXEC)
        self._last: tuple[float, float] | None = None

    def view(self, pids: set[int], now: float) -> HostView:
        """The host now; `pids`: the processes of its services."""
        waited, last = self._pressure.seconds(), self._last
        self._last = now, waited
        share = None if last is None or now <= last[0] else min(1.0, (waited - last[1]) / (now - last[0]))
        queues = [s.receive_queue / s.send_queue for s in self._sockets.listeners() if s.send_queue]
        tcp = dict(counters(os.pread(self._netstat, 1 << 16, 0).decode())).get("TcpExt", {})
        return HostView(
            now,
            pressure=share,
            delay=self._delay.share(pids),
            queue=max(queues, default=None),
            cookies=tcp.get("SyncookiesSent"),
            half_open=self._sockets.half_open(),
            drops=tcp.get("ListenDrops", 0) + tcp.get("TCPReqQFullDrop", 0),
        )

    def close(self) -> None:
        self._pressure.close()
        self._sockets.close()
        os.close(self._netstat)


class Advisor:
    """Asks clients of a server to leave it, one after the other."""

    def __init__(self, side: ServerSide, policy: ServerPolicy, watch: HostWatch) -> None:
        self.deadline = 0.0
        self._side, self._policy, self._watch = side, policy, watch
        self._quiet_until: dict[ServerConnection, float] = {}
        """Of the connections that have come from other servers, or have been asked."""
        self._turn = cycle(side.others)

    def on_timer(self, now: float) -> None:
        """Look, if it is time to."""
        if now < self.deadline:
            return
        self.deadline = now + self._policy.interval
        here = [c for c in self._side.connections() if c.role.state is OldServer.ESTABLISHED]
        later = now + self._policy.holdoff
        self._quiet_until = {c: self._quiet_until.get(c, later if c.moves else now) for c in here}
        try:
            view = self._watch.view(self._side.pids(), now)
        except OSError as error:
            log.warning("this server's policy cannot see the host: %s", error)
            return
        count = self._policy.observe(view)
        reached = self._side.control.status()
        if not any(reached.values()):
            return  # nobody could take any
        for connection in [c for c in here if now >= self._quiet_until[c]][:count]:
            self._quiet_until[connection] = later
            # The client knows best which server is good for it, unless some cannot take it.
            server = None if all(reached.values()) else next(s for s in self._turn if reached[s.name])
            preferred = server.place_of(connection.four_tuple.local) if server else None
            connection.hint(self._policy.reason, preferred, now)
