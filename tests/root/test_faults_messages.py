"""Every message of a move lost, lost for ever, repeated, late, out of order: the connection ends up where it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mtcp import seq
from mtcp.wire.frames import Done, Frame, StateReplyFrame, StateRequest
from testbed import processes, sandbox
from tests.root.faults_cells import CELLS, Cell, Course, Outcome, longest_stall
from tests.root.faults_paths import Harm, Passing
from tests.root.faults_stage import Guest, Stage, Trial
from tests.root.scene import SERVERS

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(120 if sandbox.inside() else 0)]
MET = 3.0
"""Seconds within which every message is sent that is to be harmed."""
Trials = dict[Cell, list[tuple[Guest, Harm, Trial]]]


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials | None]:
    """All cells that are asked for, at once: each has a download and a conversation of its own."""
    if not sandbox.inside():
        yield None
        return
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    cells: list[Any] = [item.callspec.params["cell"] for item in functions if "trials" in item.fixturenames]
    with Stage.set_up(tmp_path_factory.mktemp("stage")) as stage:
        yield run(stage, cells)


def run(stage: Stage, cells: list[Cell]) -> Trials:
    guests = stage.guests(2 * len(cells))
    cell_of = {guest.port: cells[i // 2] for i, guest in enumerate(guests)}
    harms = {guest.port: Harm(cell_of[guest.port].message, cell_of[guest.port].fault) for guest in guests}
    courses = {port: cell.course for port, cell in cell_of.items()}

    def alter(frame: Frame) -> Frame | None:
        return spoilt(frame, courses.get(frame.old.remote.port, Course.MOVES))

    for proxy in stage.pool.proxies:
        proxy.alter = alter

    def rule(passing: Passing) -> None:
        if not (courses[passing.port] is Course.UNHEARD and passing.kind == "ACCEPT"):
            harms[passing.port](passing)

    stage.faults.rules |= dict.fromkeys(harms, rule)
    with stage.visit("messages", guests) as visit:
        visit.wait_known([guest for guest in guests if cell_of[guest.port].offered])
        visit.wait_progress(guests)
        hinted = [guest for guest in guests if courses[guest.port] is Course.HINTED]
        answers = visit.move_all([guest for guest in guests if guest not in hinted], SERVERS[1])
        for guest in hinted:
            guest.first = visit.hint(guest, SERVERS[1])
        visit.wait_moved([g for g in hinted if cell_of[g.port].outcome is Outcome.MOVED], SERVERS[1])
        for port, answer in answers.items():
            next(g for g in guests if g.port == port).first = answer.result(60)
        visit.wait_progress(guests)
        visit.wait_until("its message comes by", lambda: [g for g in guests if not harms[g.port].done], MET)
        for port in courses:
            courses[port] = Course.MOVES
        visit.move_again(guests)
        visit.wait_progress(guests)
        visit.wait_one_owner(guests)
    result: Trials = {}
    for guest in guests:
        cell = cell_of[guest.port]
        result.setdefault(cell, []).append((guest, harms[guest.port], visit.judge(guest, cell.name)))
    return result


def spoilt(frame: Frame, course: Course) -> Frame | None:
    """The frame as it has to be for this course of the move; None when it is lost."""
    if course is Course.FORGED and isinstance(frame, StateRequest):
        return replace(frame, rcv_nxt=seq.add(frame.rcv_nxt, 1))
    if course is Course.REFUSED and isinstance(frame, StateReplyFrame):
        snapshot = replace(frame.reply.tcp_snapshot, snd_wscale=77)
        return replace(frame, reply=replace(frame.reply, tcp_snapshot=snapshot))
    return None if course is Course.UNTOLD and isinstance(frame, Done) else frame


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_message(trials: Trials, cell: Cell) -> None:
    for guest, harm, trial in trials[cell]:
        assert harm.done, f"{guest.kind}: no {cell.message} came by"
        assert not trial.faults, f"{guest.kind}: {trial.faults}; {guest}"
        assert not trial.errors, f"{guest.kind}: {guest}"
        assert trial.moved == (cell.outcome is Outcome.MOVED), f"{guest.kind}: {guest}"
        longest = longest_stall(cell.outage) * processes.PATIENCE
        assert trial.stall <= longest, f"{guest.kind}: its data stopped for {trial.stall:.2f} s"
