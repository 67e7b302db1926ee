"""One trial, in a sandbox of its own: `python -m experiments.trial SPEC --results DIR`, where SPEC is a Trial in JSON.

It leaves a run (testbed.results) that nobody has judged yet; `analysis` does. Prints the run's directory.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments import mechanisms, moves, scenarios
from experiments.plan import Trial
from experiments.stage import Stage
from testbed import doctor, sandbox, selftest
from testbed.capture import Capture, capturing, drops
from testbed.errors import TestbedError
from testbed.fidelity import Limits, Monitor
from testbed.pool import EVENTS
from testbed.processes import checked
from testbed.results import UNJUDGED, Run
from topologies.running import Running

SPARE = 1.3
"""Bytes of the largest file, of what a link can carry in a trial."""


def perform(trial: Trial, results: Path, run_id: str = "") -> Run:
    """Carry the trial out, in this sandbox. TestbedError when the testbed does not do its part: the run is invalid."""
    scenario, mechanism = scenarios.named(trial.scenario), mechanisms.named(trial.mechanism)
    with Run(
        "runs", scenario=trial.scenario, mechanism=trial.mechanism, factors=trial.factors, seed=trial.seed,
        repetition=trial.repetition, results=results, id=run_id,
    ) as run:  # fmt: skip
        run.metadata |= {"policy": trial.policy, "facts": {}}
        if why := mechanism.unsupported(trial) or scenario.unsupported(trial):
            run.finish("unsupported", why)
            return run
        settings, files = mechanism.settings(trial), scenario.files(trial)
        with scenario.network(trial, big=_big(trial), files=files, logs=run.path("logs"), **settings) as network:
            run.metadata["emulation"] = network.net.emulation
            run.sysctls({host.name: host.sysctls for host in network.hosts})
            run.limits({host.name: host.limits for host in network.hosts})
            selftest.check(network.net, run)
            acquaint(network)
            begun = time.monotonic_ns()
            stage = Stage(trial, run, network, mechanism, files)
            mechanism.prepare(stage)
            with captured(run, network, scenario.capture(trial) or mechanism.capture):
                scenario.perform(stage)
            copy_events(run, network, begun)
        run.finish("invalid", UNJUDGED)
    return run


def acquaint(network: Running) -> None:
    """Have client, servers and routers look each other's link addresses up, as they have on a network that is in use.

    Else whoever goes to another server first waits for that: one more round trip.
    """
    for address in network.addresses.values():
        checked(network.client, "ping", "-q", "-c", "1", "-w", "5", address)


def _big(trial: Trial) -> int:
    """Bytes of /big: more than the trial can download."""
    factors = trial.factors
    seconds = sum(float(factors.get(name, 5)) for name in ("before", "after")) + 2
    # More than that is had by asking for it again.
    return int(SPARE * seconds * (float(factors.get("bw", 100)) or 100) * 1e6 / 8)


@contextlib.contextmanager
def captured(run: Run, network: Running, what: str) -> Iterator[None]:
    """Capture at client and servers, and watch the machine; notes in the run's facts how many packets each lost."""
    hosts = [network.client, *network.servers]
    captures: dict[str, Capture] = {}
    filters = {host.name: what for host in hosts}
    run.metadata["facts"] |= {"hosts": {"client": network.client_address} | network.addresses, "captured": what}
    with Monitor(run, network.net, captures=captures), capturing(hosts, run.directory, filters=filters) as started:
        captures |= started
        yield
    run.metadata["facts"]["capture_drops"] = drops(captures)


def copy_events(run: Run, network: Running, begun: int) -> None:
    """Put what the agents have noted since `begun` (ns, CLOCK_MONOTONIC) into the run's events."""
    if not any(EVENTS.glob("agent-*.jsonl")):
        return
    time.sleep(0.3)  # agents write ten times a second
    for event in moves.merge(EVENTS, {ip: name for name, ip in network.addresses.items()}, begun):
        run.event(event.pop("event"), event.pop("monotonic_ns"), **event)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Trial.from_json)
    parser.add_argument("--results", type=Path, required=True, help="directory that gets runs/RUN-ID")
    parser.add_argument("--run", default="", metavar="ID", help="of the run (a new one)")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process does, which started it")
    parser.add_argument("--limits", type=Path, metavar="FILE", help="testbed.fidelity's, TOML")
    options = parser.parse_args()
    if options.parent is not None:
        sandbox.end_with(options.parent)
    sandbox.enter()
    try:
        doctor.require_all()
        if options.limits is not None:
            Monitor.limits = Limits.read(options.limits)
        run = perform(options.trial, options.results, options.run)
    except TestbedError as error:
        print(f"trial: {error}", file=sys.stderr)
        return 1
    print(run.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
