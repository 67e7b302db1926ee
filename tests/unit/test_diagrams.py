"""The pages that are drawn from the tables and from simulated runs are up to date, and show what they say."""

from __future__ import annotations

import re

import pytest

from mtcp import states
from mtcp.diagrams import DOCS, PAGES, SCENES, ladder, ladders_page, play, state_diagram, state_table, states_page
from mtcp.sim_network import Entry

pytestmark = pytest.mark.unit
TABLES = (states.CLIENT, states.OLD_SERVER, states.NEW_SERVER)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_it_would_be_drawn_now(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run python -m mtcp.diagrams"


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_in_the_table(table: states.Table) -> None:
    drawn = set()
    for line in state_table(table).splitlines()[2:]:
        state, events = line.split(" | ")[0].strip("| "), line.split(" | ")[1]
        drawn |= {(state, event) for event in events.split(", ")}
    assert drawn == {(state.name, event.name) for state, event in table}


def test_every_change_of_state_is_in_the_diagram() -> None:
    for table, start in zip(TABLES, (states.Client, states.OldServer, states.NewServer), strict=True):
        arrows = re.findall(r"(\w+) --> (\w+) : (\w+)", state_diagram(table, next(iter(start))))
        changes = [(s.name, after.name, e.name) for (s, e), (_, after) in table.items() if s is not after]
        assert arrows == changes
        assert f"[*] --> {next(iter(start)).name}" in states_page()


def test_a_ladder() -> None:
    trace = [Entry(0.5 * i, "C", "S2", "MIGRATE 1", "LOST" if i == 0 else "") for i in range(5)]
    drawn = ladder([*trace, Entry(3.0, "C", "", "moved: x; y")]).splitlines()
    assert drawn[5:-1] == [
        "    C--xS2: 0.000 s MIGRATE 1",
        "    C->>S2: 0.500 s MIGRATE 1",
        "    Note over C: MIGRATE 1, again and again",
        "    Note over C: moved: x",
    ]


def test_the_scenes_are_what_their_titles_say() -> None:
    traces = ["\n".join(map(str, play(scene))) for scene in SCENES]
    move, lost_accept, given_up, unheard, lost_done = traces
    assert "moved" in move and "LOST" not in move and "QUERY" not in move
    assert "ACCEPT 1  LOST" in lost_accept and "moved" in lost_accept
    assert "kept" in given_up and "S1 -> C ABORT_ACK 1" in given_up
    assert "C -> S1 ABORT 1  LOST" in unheard and "S2 -> S1 RELEASE" in unheard and "ABORT_ACK" not in unheard
    assert "DONE frame 1  LOST" in lost_done and "C -> S1 REFUSAL 1" in lost_done
    assert all(scene.title in ladders_page() for scene in SCENES)
