"""Nginx: Debian's nginx, as it is, on both servers, and unmodified clients. With M-TCP it has a sidecar before it.

The program `download` is a client that reads one file; at the time of the fault S1's web server is killed, and its
sidecar with it. curl, wget and wrk fetch files over connections that are kept alive, wrk over eight at a time, and
every byte is looked at; with M-TCP an operator moves their connections at random instants, so many times, while they
do. With plain TCP they just run: nobody could move them.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import testbed.clients
from experiments import measuring
from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.scenarios.crash import end
from experiments.stage import Stage
from mtcp.errors import Reason
from testbed import nginx, sandbox
from testbed.processes import PATIENCE, Program, checked
from topologies import two_servers
from topologies.running import HTTP_PORT

PROGRAMS = ("download", "curl", "wget", "wrk")
FILES = ("medium", "small") * 20
"""That curl and wget fetch in a run, in one connection."""
UNMOVED = 3
"""Runs of curl and wget, or seconds of wrk, when nobody moves anything."""
A_RUN = 60.0
"""Seconds that a run takes at most."""
A_MOVE = 0.3
"""Seconds from move to move, at most, in the mean."""
CHECKED = Path(testbed.clients.__file__).with_name("checked.lua")


class Nginx(Scenario):
    """See above."""

    name = "nginx"
    mechanisms = ("mtcp", "tcp", "reconnect")
    policy = "throughput:silence=0.5"
    seconds = 200.0
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "program": Factor("download", f"the client: {', '.join(PROGRAMS)}", sweep=PROGRAMS),
        "moves": Factor(170, "of curl's, wget's or wrk's connections", small=10),
    }

    def unsupported(self, trial: Trial) -> str:
        if trial.mechanism not in self.mechanisms:
            return "nginx listens on plain TCP sockets"
        moved = trial.mechanism == "reconnect" and trial.factors["program"] != "download"
        return f"{trial.factors['program']} has nobody to tell it to go to another server" if moved else ""

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        return two_servers.running(bw=trial.factors["bw"], rtt=trial.factors["rtt"], control_rtt=0.0, **settings)

    def perform(self, stage: Stage) -> None:
        serve(stage)
        program = str(stage.trial.factors["program"])
        if program == "download":
            stage.set_clock()
            client = stage.start("download")
            stage.fault("s1's web server dies", lambda: end(stage, everything=False))
            client.finish()
            return
        if stage.mechanism.agents:
            checked(stage.network.client, str(Path(sys.executable).with_name("mtcp")), "policy", "manual")
        (_wrk if program == "wrk" else _fetch)(stage)


def serve(stage: Stage) -> None:
    """Put nginx in the place of the file servers."""
    network, programs = stage.network, stage.network.pool.programs
    for host in network.servers:
        programs.pop(f"files-{host}").stop()
        listen = f"127.0.0.1:{nginx.UPSTREAM_PORT}" if stage.mechanism.agents else f"{HTTP_PORT}"
        log = network.logs / f"nginx-{host}.log"
        programs[f"nginx-{host}"] = nginx.start(
            host, sandbox.RUN / f"nginx-{host}", network.directory, log, listen=listen
        )
        if stage.mechanism.agents:
            programs[f"sidecar-{host}"] = nginx.sidecar(host, HTTP_PORT, network.logs / f"sidecar-{host}.log")


class _Operator:
    """Moves the client's connections, if this is M-TCP."""

    def __init__(self, stage: Stage) -> None:
        self._program: Program | None = None
        self.seconds = stage.factor("moves") * (A_MOVE + 2 * stage.factor("rtt") / 1e3) + A_RUN
        if stage.mechanism.agents:
            options = ("--moves", f"{stage.factor('moves'):.0f}", "--seed", f"{stage.trial.seed}")
            command = [sys.executable, "-m", "experiments.web_mover", *options]
            self._program = Program(stage.network.client, command, stage.run.path("web_mover.log"))

    @property
    def moves(self) -> bool:
        return self._program is not None and self._program.process.poll() is None

    def finish(self) -> dict[str, float]:
        """What became of the moves; no error, but a figure, when not all came about."""
        if self._program is None:
            return {}
        self._program.wait_end(self.seconds / PATIENCE)
        lines = [line for line in self._program.output().splitlines() if line.startswith("{")]
        reasons = [line["reason"] for line in map(json.loads, lines) if line["outcome"] != "moved"]
        held = sum(reason.startswith(Reason.HELD.name) for reason in reasons)
        return {"moved": len(lines) - len(reasons), "held": held, "kept": len(reasons) - held}


def _fetch(stage: Stage) -> None:
    """curl or wget, again and again, as long as the operator moves."""
    network, program = stage.network, str(stage.trial.factors["program"])
    server = next(iter(network.addresses.values()))
    urls = " ".join(f"http://{server}/{name}" for name in FILES)
    command = {"curl": "curl -sSN --fail", "wget": "wget -q -O -"}[program]
    expected = hashlib.sha256(b"".join((network.directory / name).read_bytes() for name in FILES)).hexdigest()
    size = sum((network.directory / name).stat().st_size for name in FILES)
    operator, begun, runs, wrong, code = _Operator(stage), time.monotonic(), 0, "", 0
    while not wrong and (operator.moves or runs < UNMOVED):
        log = stage.run.path(f"{program}-{runs}.log")
        ran = Program(network.client, ["bash", "-o", "pipefail", "-c", f"{command} {urls} | sha256sum"], log)
        code, runs = ran.wait_end(A_RUN), runs + 1
        if code or ran.output().split()[0] != expected:
            wrong = f"run {runs} ended with {code}: {ran.output().strip()}"
    seconds = time.monotonic() - begun
    _note(stage, runs * size, code, wrong, goodput_mbps=runs * size * 8e-6 / seconds, runs=runs, **operator.finish())


def _wrk(stage: Stage) -> None:
    """Eight connections, until the operator has moved enough; then it is interrupted, and sums up."""
    network, server = stage.network, next(iter(stage.network.addresses.values()))
    file = network.directory / "medium"
    operator = _Operator(stage)
    options = ["-t", "2", "-c", "8", "-d", f"{operator.seconds:.0f}s", "--timeout", "60s", "-s", str(CHECKED)]
    command = ["wrk", *options, f"http://{server}/medium", "--", str(file)]
    begun = time.monotonic_ns()
    program = Program(network.client, command, stage.run.path("wrk.log"))
    time.sleep(UNMOVED)
    found = operator.finish()
    ended = time.monotonic_ns()
    # What it has under way when it ends, it resets.
    stage.run.metadata["facts"]["moments_ns"] = {"start": begun, "fault": begun, "end": ended}
    code = program.stop(signal.SIGINT, A_RUN)
    last = program.output().strip().splitlines()[-1:]
    try:
        said = json.loads(last[0])
    except (ValueError, IndexError):
        said = {"right": 0, "wrong": 0, "errors": 0}
        code = code or 1
    wrong = "" if not code and said["right"] and not said["wrong"] + said["errors"] else f"wrk: {shlex.join(last)}"
    size = said["right"] * file.stat().st_size
    _note(stage, 0, code, wrong, goodput_mbps=size * 8e3 / (ended - begun), requests=said["right"], **found)


def _note(stage: Stage, size: int, code: int, wrong: str, **measured: float) -> None:
    """Note what the program came to, as of other clients."""
    report = {
        "workload": stage.trial.factors["program"],
        "exit": code or (1 if wrong else 0),
        "error": wrong,
        "bytes": size,
        "every_byte_right": not wrong,
    }
    directory = stage.run.path("client")
    directory.mkdir()
    directory.joinpath("client.json").write_text(json.dumps(report, indent=2) + "\n")
    stage.run.metadata["facts"].setdefault("clients", {})["client"] = report
    measuring.note(stage, **measured)
