"""One trial, in a sandbox of its own: `python -m experiments.trial SPEC --results DIR`, where SPEC is a Trial in JSON.

It leaves a run (testbed.results) that nobody has judged yet; `analysis` does. Prints the run's directory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import mechanisms, scenarios
from experiments.plan import Trial
from experiments.recording import recording
from experiments.stage import Stage
from testbed import doctor, sandbox, selftest
from testbed.errors import TestbedError
from testbed.fidelity import Limits, Monitor
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
            stage = Stage(trial, run, network, mechanism, files)
            mechanism.prepare(stage)
            what = scenario.capture(trial) or mechanism.capture
            run.metadata["facts"]["captured"] = what
            with recording(run, network, {host.name: what for host in network.hosts}):
                scenario.perform(stage)
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
    # Of an unshaped link more may come; then the client asks for the file again.
    return int(SPARE * seconds * (float(factors.get("bw", 100)) or 100) * 1e6 / 8)


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
