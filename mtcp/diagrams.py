"""docs/states.md and docs/ladders.md: pictures of the protocol, drawn from its tables and from simulated runs.

`python -m mtcp.diagrams` writes them anew; a test compares, so that they do not drift.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mtcp.sim import Simulation
from mtcp.sim_network import Entry, describe
from mtcp.states import CLIENT, NEW_SERVER, OLD_SERVER, Action, Client, NewServer, OldServer, State, Table

DOCS = Path(__file__).parents[1] / "docs"
REMADE = "Made by `python -m mtcp.diagrams`: do not edit."
SHOWN = 2
"""Times that a repeated message is drawn."""


# -- states


def state_diagram(table: Table, start: State) -> str:
    """The table's changes of state, in Mermaid's language."""
    lines = ["stateDiagram-v2", f"    [*] --> {start.name}"]
    for (state, event), (_, following) in table.items():
        if following is not state:
            lines.append(f"    {state.name} --> {following.name} : {event.name}")
    return _mermaid(lines)


def state_table(table: Table) -> str:
    """All rows in Markdown; what changes nothing and does nothing is one line per state."""
    lines = ["| state | event | actions | next state |", "|---|---|---|---|"]
    for state in dict.fromkeys(state for state, _ in table):
        ignored = []
        for (before, event), (actions, following) in table.items():
            if before is not state:
                continue
            if following is state and not actions:
                ignored.append(event.name)
            else:
                after = "" if following is state else following.name
                lines.append(f"| {state.name} | {event.name} | {_names(actions)} | {after} |")
        if ignored:
            lines.append(f"| {state.name} | {', '.join(ignored)} | | |")
    return "\n".join(lines)


def _names(actions: Iterable[Action]) -> str:
    return ", ".join(action.name.lower().replace("_", " ") for action in actions)


def states_page() -> str:
    """docs/states.md."""
    parts = [
        "# States",
        REMADE,
        "One table per role (`mtcp/states.py`). A pair of state and event that is in none of these rows is an error of "
        "whoever caused it, and changes nothing. Where the next state is empty it is the same. What the events mean is "
        "said there; what the actions are made of, in `mtcp/roles/`.",
    ]
    roles = (
        ("The client", CLIENT, Client.TRACKED),
        ("The old server", OLD_SERVER, OldServer.ESTABLISHED),
        ("The new server", NEW_SERVER, NewServer.LISTEN),
    )
    for title, table, start in roles:
        parts += [f"## {title}", state_diagram(table, start), state_table(table)]
    return "\n\n".join(parts) + "\n"


# -- ladders


@dataclass(frozen=True)
class Scene:
    """A run to be drawn: what is lost in it, which message how often."""

    title: str
    text: str
    lost: tuple[tuple[str, int], ...] = ()


SCENES = (
    Scene("A move", "Nothing is lost. Data of the application is not drawn."),
    Scene(
        "ACCEPT is lost",
        "The client repeats MIGRATE, the new server repeats ACCEPT, and the old server, fenced, begins to ask.",
        (("ACCEPT 1", 1),),
    ),
    Scene(
        "The client gives up",
        "No ACCEPT arrives. The client asks its mapping, which has not committed, and tells both servers so.",
        (("ACCEPT 1", 99),),
    ),
    Scene(
        "The client gives up, and the old server does not hear of it",
        "Its ABORT goes by way of the new server, too; nobody but the client could have made it.",
        (("ACCEPT 1", 99), ("ABORT 1", 99)),
    ),
    Scene(
        "DONE is lost",
        "The old server asks until somebody tells it that it has lost the connection: here, the client.",
        (("DONE frame 1", 99),),
    ),
)


def ladder(trace: Iterable[Entry]) -> str:
    """The trace in Mermaid's language; what is repeated is drawn SHOWN times."""
    lines = ["sequenceDiagram", *(f"    participant {name}" for name in ("C", "S1", "S2"))]
    times: dict[tuple[str, str, str], int] = {}
    for entry in trace:
        what = describe(entry.what)
        key = entry.source, entry.target, what
        times[key] = times.get(key, 0) + 1
        if times[key] > SHOWN:
            if times[key] == SHOWN + 1:
                lines.append(f"    Note over {entry.source}: {what}, again and again")
        elif not entry.target:
            lines.append(f"    Note over {entry.source}: {what.partition(';')[0].strip()}")
        else:
            arrow = "--x" if entry.fate in ("LOST", "CUT") else "->>"
            lines.append(f"    {entry.source}{arrow}{entry.target}: {entry.time:.3f} s {what}")
    return _mermaid(lines)


def play(scene: Scene) -> list[Entry]:
    """The trace of a run with these losses."""
    simulation = Simulation(1, moves=1)
    simulation.net.lose = dict(scene.lost)
    simulation.settle()
    simulation.close()
    return simulation.net.trace


def ladders_page() -> str:
    """docs/ladders.md."""
    parts = [
        "# Ladders",
        REMADE,
        "Runs of the three roles in the simulator (`mtcp/sim.py`), in which each message takes a millisecond. C is the "
        'client, S1 the old server, S2 the new one; a cross is a message that is lost. "frame" tells the QUERY and the '
        "DONE between servers from control segments.",
    ]
    for scene in SCENES:
        parts += [f"## {scene.title}", scene.text, ladder(play(scene))]
    return "\n\n".join(parts) + "\n"


def _mermaid(lines: list[str]) -> str:
    return "\n".join(["```mermaid", *lines, "```"])


PAGES = {"states.md": states_page, "ladders.md": ladders_page}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
