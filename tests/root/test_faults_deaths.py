"""Agents, applications, hosts and networks die at every step of a move: the connection ends up where it should."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from testbed import processes, sandbox
from testbed.processes import checked
from tests.root.faults_cells import (
    DEEDS,
    IN_TIME,
    LATE,
    PATIENCE,
    STEPS,
    USER_TIMEOUT,
    Deed,
    Step,
    longest_stall,
)
from tests.root.faults_paths import Hold, Passing
from tests.root.faults_stage import Guest, Stage, Trial
from tests.root.scene import SERVERS

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(120 if sandbox.inside() else 0)]
Trials = dict[tuple[Deed, Step], list[tuple[Guest, float, float, Trial]]]
REACHED = 4.0
"""Seconds within which every move comes to its step; the client's patience is longer."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage | None]:
    if not sandbox.inside():
        yield None
        return
    with Stage.set_up(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="module")
def trials() -> Trials:
    return {}


@pytest.fixture(scope="module")
def done() -> set[Deed]:
    return set()


def stops(step: Step) -> Callable[[Passing], bool]:
    """What is held at the step: its message, and whatever would tell the same by another way."""
    match step.message:
        case "ACCEPT":
            return lambda passing: passing.source == SERVERS[1]
        case "ACK3":
            return lambda passing: passing.to == SERVERS[1] and passing.kind != "MIGRATE"
        case message:
            return lambda passing: passing.kind == message


@contextlib.contextmanager
def agent_killed(stage: Stage, name: str, back_after: float) -> Iterator[None]:
    host = stage.scene.net.net[name]
    stage.pool.programs[f"agent-{name}"].stop(signal.SIGKILL)
    killed = time.monotonic()

    def restart() -> None:
        stage.pool.restart(host)
        stage.away = time.monotonic() - killed

    timer = threading.Timer(back_after, restart)
    timer.start()
    yield
    timer.join()


@contextlib.contextmanager
def applications_killed(stage: Stage) -> Iterator[None]:
    for program in stage.applications("s1"):
        program.stop(signal.SIGKILL)
    yield
    stage.restart_applications(stage.scene.net.s1)


@contextlib.contextmanager
def applications_stopped(stage: Stage, runs: float = 0.0) -> Iterator[None]:
    """`runs`: share of the time for which they are let run."""
    over = threading.Event()

    def signal_all(number: signal.Signals) -> None:
        for program in stage.applications("s1"):
            program.process.send_signal(number)

    def starve() -> None:
        while not over.wait(0.1 * (1 - runs)):
            if runs:
                signal_all(signal.SIGCONT)
                over.wait(0.1 * runs)
                signal_all(signal.SIGSTOP)

    signal_all(signal.SIGSTOP)
    thread = threading.Thread(target=starve)
    thread.start()
    yield
    over.set()
    thread.join()
    signal_all(signal.SIGCONT)


@contextlib.contextmanager
def interfaces_down(stage: Stage, numbers: tuple[int, ...], seconds: float | None) -> Iterator[None]:
    host = stage.scene.net.s1

    def switch(state: str) -> None:
        for number in numbers:
            checked(host, "ip", "link", "set", f"s1-eth{number}", state)

    switch("down")
    timer = threading.Timer(seconds, switch, ["up"]) if seconds else None
    if timer:
        timer.start()
    yield
    if timer:
        timer.join()
    else:
        switch("up")


@contextlib.contextmanager
def control_reset(stage: Stage) -> Iterator[None]:
    for proxy in stage.pool.proxies:
        proxy.reset()
    yield


@contextlib.contextmanager
def link_cut(stage: Stage, seconds: float) -> Iterator[None]:
    stage.wire.cut = True
    timer = threading.Timer(seconds, setattr, [stage.wire, "cut", False])
    timer.start()
    yield
    timer.join()


def do(stage: Stage, deed: Deed) -> contextlib.AbstractContextManager[None]:
    """The deed, undone at the end."""
    match deed.name.split("-"):
        case ["s2" | "s1" | "c" as who, "agent", *late]:
            return agent_killed(stage, {"c": "client"}.get(who, who), LATE if late else 0.0)
        case ["s1", "application"]:
            return applications_killed(stage)
        case ["s1", "application", how]:
            return applications_stopped(stage, 0.01 if how == "starved" else 0.0)
        case ["control", "reset"]:
            return control_reset(stage)
        case ["control", how]:
            return interfaces_down(stage, (1,), 1.0 if how == "cut" else None)
        case ["link", how]:
            return link_cut(stage, 1.0 if how == "cut" else LATE)
        case _:
            return interfaces_down(stage, (0, 1), None)


def run(stage: Stage, deed: Deed) -> Trials:
    """The deed, with a download and a conversation stopped at each step."""
    guests = stage.guests(2 * len(STEPS))
    step_of = {guest.port: STEPS[i // 2] for i, guest in enumerate(guests)}
    doomed = [g for g in guests if deed.outcome(step_of[g.port]) == "e"]
    living = [g for g in guests if g not in doomed]
    for guest in doomed:
        guest.patience = USER_TIMEOUT
    stage.away = 0.0
    with stage.visit(deed.name, guests) as visit:
        visit.wait_known(guests)
        visit.wait_progress(guests)
        holds = {guest.port: Hold(stops(step_of[guest.port])) for guest in guests}
        stage.faults.rules |= holds
        begun = time.monotonic()
        answers = visit.move_all(guests, SERVERS[1])
        visit.wait_until(
            "the step is reached", lambda: [g for g in guests if not holds[g.port].reached.is_set()], REACHED
        )
        with do(stage, deed):
            for port, hold in holds.items():
                hold.let_go(step_of[port].sent)
            held = time.monotonic() - begun
            visit.wait_progress(living)
            for guest in guests:
                guest.first = answers[guest.port].result(30)
            visit.wait_progress(living)
            visit.wait_until(
                "its kernel gives up", lambda: [g for g in doomed if not visit.failed(g)], 2 * USER_TIMEOUT
            )
            visit.second_at_ns = time.time_ns()
        visit.move_again(living)
        visit.wait_progress(living)
        visit.wait_one_owner(living)
    trials: Trials = {}
    for guest in guests:
        step = step_of[guest.port]
        trials.setdefault((deed, step), []).append(
            (guest, held, stage.away, visit.judge(guest, f"{deed.name}-{step.number}"))
        )
    return trials


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.number}")
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
def test_death(stage: Stage, trials: Trials, done: set[Deed], deed: Deed, step: Step) -> None:
    if deed not in done:
        done.add(deed)  # also when that fails: the others of its cells then say so, too
        trials |= run(stage, deed)
    assert (deed, step) in trials, "see the first cell of this deed"
    outcome = deed.outcome(step)
    for guest, held, away, trial in trials[deed, step]:
        assert not trial.faults, f"{guest.kind}: {trial.faults}; {guest}"
        in_time = away <= IN_TIME or deed.late
        assert trial.moved == (outcome == "m") or outcome == "b" or not in_time, (
            f"{guest.kind}: {guest}; agent away for {away:.2f} s"
        )
        assert trial.errors == (["ETIMEDOUT"] if outcome == "e" else []), f"{guest.kind}: {guest}"
        stall, longest = trial.stall, deed.stall(step, held) if in_time else longest_stall(PATIENCE + held)
        words = f"{guest.kind}: its data stopped for {stall:.2f} s, {held:.2f} s of that by the test"
        assert stall <= longest * processes.PATIENCE, words
