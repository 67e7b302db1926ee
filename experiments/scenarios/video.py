"""Video: ffmpeg, as it is, plays a film, while the server that it comes from does not do well any more.

ffmpeg reads a film from S1 by HTTP, one request, and decodes it in real time. Each decoded frame is held against what
it was when the film was made, and ffmpeg ends at the first error that it finds. With M-TCP an operator moves the
connection to and fro all the while. In the middle S1's file server is killed, or others fill the path from S1, or S1 is
left with a part of a processor; after some seconds that is over, and a file server that was killed runs again. During
this time the policy decides when to leave S1, and nobody else.

What reconnects here is ffmpeg itself, as its options allow: to the same URL, by Range, when the connection breaks or
nothing has come for two seconds. To another server it has no way.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from experiments.moving import Operator
from experiments.plan import Trial
from experiments.scenario import Factor, Scenario
from experiments.scenarios.crossing import cross_traffic
from experiments.stage import Stage
from experiments.viewer import Viewer
from testbed import cpu
from testbed.film import film
from testbed.processes import Program, checked
from topologies import dumbbell
from topologies.running import HTTP_PORT

RECONNECTING = ("-reconnect", "1", "-reconnect_delay_max", "10", "-rw_timeout", "2000000")
"""ffmpeg's options. It pauses 0, 1, 3 and 7 s before it tries again, and gives up when that is more than the most. The
time-out, in µs, is for a server that falls silent."""
STAYING = ("-seekable", "0")
"""One request, and one connection. For reconnecting it is no good: ffmpeg 5.1 then asks for the film from its beginning
(seen in captures). Without, it begins with two connections, for it seeks back when it knows what the streams are."""
TO_LEARN = 2.0
"""Seconds before the fault in which nobody moves the connection: the policy learns what is usual."""
SPARE = 2.5
"""Seconds that moves may take longer than planned, all together, in each half of the film. At its end, what is left of
it is in the kernels' buffers, and a server that has written all closes its connection, which then moves no more."""
BUFFERS = {"net.ipv4.tcp_rmem": "4096 131072 262144", "net.ipv4.tcp_wmem": "4096 131072 262144"}
"""Of a player without much memory. With Linux' own limits its kernel would hold twelve seconds of the film."""


class Video(Scenario):
    """See above."""

    name = "video"
    mechanisms = ("mtcp", "tcp", "reconnect")
    policy = "throughput:silence=0.5"
    seconds = 120.0
    factors: ClassVar[Mapping[str, Factor]] = {
        "bw": Factor(20.0, "bandwidth of each service link [Mbit/s]", least=0.1),
        "rtt": Factor(20.0, "round-trip time between client and server [ms]"),
        "fault": Factor(
            "application",
            "what goes wrong: application (S1's dies), path (cross traffic to S1) or cpu (S1's)",
            choices=("application", "path", "cpu"),
        ),
        "lasts": Factor(8.0, "until it is as before [s]", small=3.0),
        "cross": Factor(19.0, "UDP cross traffic on the path to S1 [Mbit/s]", least=0.1),
        "cores": Factor(0.001, "of a processor that S1 is left with"),
        "rate": Factor(4.0, "of the film [Mbit/s]", least=0.5),
        "buffer": Factor(1.0, "that the viewer is behind the decoder [s]", least=0.6),
        "moves": Factor(20, "by the operator, half of them before the fault", small=4),
        "before": Factor(30.0, "of the film before the fault [s]", small=6.0, least=TO_LEARN + SPARE + 0.5),
        "after": Factor(30.0, "of the film after the fault [s]", small=7.0, least=SPARE + 0.5),
    }

    def unsupported(self, trial: Trial) -> str:
        if trial.mechanism in ("mptcp", "quic"):
            return "ffmpeg opens plain TCP sockets"
        if float(trial.factors["lasts"]) + SPARE >= float(trial.factors["after"]):
            return "the film is over before S1 is well again: `after` is too short for `lasts`"
        return ""

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[dumbbell.Running]:
        settings["sysctls"] = {**settings.get("sysctls", {}), **BUFFERS}
        return dumbbell.running(second_path=True, bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        before, after, lasts = (stage.factor(name) for name in ("before", "after", "lasts"))
        # Once for all trials of the experiment.
        films = stage.run.directory.parents[1] / "films"
        shown = film(films, before + after, stage.factor("rate"))
        stage.set_clock()
        options = RECONNECTING if stage.mechanism.name == "reconnect" else STAYING
        viewer = Viewer(stage, shown, stage.factor("buffer"), *options)
        operator = Moving(stage) if stage.mechanism.agents else None
        half = int(stage.factor("moves")) // 4 * 2
        if operator is not None:
            stage.wait_until(stage.clock.start_at)
            operator.moves(half, before - TO_LEARN)
            stage.mechanism.set_policy(stage)
        with trouble(stage):
            stage.wait_until(stage.clock.fault_at + lasts)
        if operator is not None and viewer.watches:
            operator.moves(int(stage.factor("moves")) - half, after - lasts)
        viewer.finish()


class Moving:
    """An operator, who moves the connection when no policy does."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mtcp = str(Path(sys.executable).with_name("mtcp"))
        self._policy("manual")

    def moves(self, count: int, seconds: float) -> None:
        """So many moves within the time, there and back; the policy is manual from now on."""
        self._policy("manual")
        addresses = dict(self._stage.network.addresses)
        # The first goes to the second: the connection must not be there.
        order = sorted(addresses, key=lambda name: addresses[name] != self._place())
        servers = ",".join(f"{name}={addresses[name]}" for name in order)
        if count:
            interval = (seconds - SPARE) / count
            options = ("--servers", servers, "--migrations", count, "--interval", interval)
            Operator(self._stage, "mover", *options).outcomes(seconds + 30)

    def _place(self) -> str:
        """The address of the server that has the connection; "" while there is none."""
        rows = json.loads(checked(self._stage.network.client, self._mtcp, "ls", "--json"))
        return next((row["current"].rpartition(":")[0] for row in rows if row["role"] == "client"), "")

    def _policy(self, name: str) -> None:
        checked(self._stage.network.client, self._mtcp, "policy", name)


@contextlib.contextmanager
def trouble(stage: Stage) -> Iterator[None]:
    """At the time of the fault it begins, and it ends with the block."""
    network, what = stage.network, stage.trial.factors["fault"]
    s1 = network.servers[0]
    if what == "path":
        with cross_traffic(stage, stage.factor("cross")):
            yield
    elif what == "cpu":
        stage.fault("S1's CPU taken", lambda: cpu.set_cpu(s1, stage.factor("cores")))
        yield
        cpu.set_cpu(s1, None)
    else:
        stage.fault("S1's file server dies", lambda: network.pool.programs["files-s1"].process.kill())
        yield
        serve_again(stage, s1)


def serve_again(stage: Stage, host: Any) -> Program:
    """Start the file server of `host`, which has died, once more."""
    network = stage.network
    plain = () if stage.mechanism.agents else ("--plain",)
    options = (*plain, "--port", HTTP_PORT, "--directory", network.directory)
    network.pool.serve([host], "files", *options, name="files-again")
    return network.pool.programs[f"files-again-{host}"]
