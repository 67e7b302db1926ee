"""The table of faults: what is done to which message, and what must come of it. docs/failures.md is made of it.

python -m tests.root.faults_cells    put the tables into docs/failures.md
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
FAULTS = ("drop once", "drop always", "duplicate", "delay", "reorder")


class Outcome(Enum):
    """Where the client's data comes from in the end."""

    MOVED = "moves"
    STAYS = "stays"


class Course(Enum):
    """What the move would come to without the fault."""

    MOVES = "an undisturbed move"
    FORGED = "a move that S1 refuses (the request's MAC is wrong)"
    REFUSED = "a move that S2 cannot make (its kernel refuses the state), so that S1 is fenced and must resume"
    UNHEARD = "a move whose ACCEPT never arrives, so that C gives it up and S2 must let go"
    HINTED = "a move for which S1 asks"
    UNTOLD = "a move of which S2 cannot tell S1 (DONE is lost), so that S1 is fenced and asks"


PATIENCE = 5.0
"""Seconds after which C gives an attempt up (mtcp.roles.client)."""
SLACK = 2.0
"""Seconds for one repetition (0.2 s), a late message (0.5 s), and what a loaded machine adds."""
USER_TIMEOUT = 6.0
"""Seconds after which the kernels of tests' clients give up a server that has gone (TCP_USER_TIMEOUT)."""


def longest_stall(outage: float) -> float:
    """Seconds for which the client's data may stop when it was cut off for `outage`.

    A kernel that is not heard doubles its retransmission timer: after an outage of t seconds it tries again within
    another t.
    """
    return 2 * outage + SLACK


@dataclass(frozen=True)
class Cell:
    """One fault to one kind of message."""

    message: str
    fault: str
    outcome: Outcome
    outage: float
    """Seconds for which the client is cut off: see `longest_stall`."""
    course: Course = Course.MOVES

    @property
    def offered(self) -> bool:
        """Whether the client learns of the other server at all."""
        return (self.message, self.fault) != ("ADD_SERVERS", "drop always")

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.message}-{self.fault}".replace(" ", "-")


_COURSES = {
    "STATE_REJECT": Course.FORGED,
    "REJECT": Course.FORGED,
    "ABORT": Course.REFUSED,
    "ABORT_ACK": Course.REFUSED,
    "RELEASE": Course.REFUSED,
    "REFUSAL": Course.UNHEARD,
    "HINT": Course.HINTED,
    "HINT_ACK": Course.HINTED,
    "QUERY": Course.UNTOLD,
    "QUERY frame": Course.UNTOLD,
}
_ENDS_THE_ATTEMPT = ("MIGRATE", "STATE_REQUEST", "STATE_REPLY", "ACCEPT")
"""Without any of these C waits in vain."""
_BEGINS_THE_ATTEMPT = ("ADD_SERVERS", "HINT")
"""Without any of these it does not even begin."""
MESSAGES = (
    "MIGRATE",
    "STATE_REQUEST",
    "STATE_REPLY",
    "ACCEPT",
    "ACK3",
    "DONE",
    "DONE_ACK",
    "STATE_REJECT",
    "REJECT",
    "ABORT",
    "ABORT_ACK",
    "RELEASE",
    "REFUSAL",
    "QUERY",
    "QUERY frame",
    "HINT",
    "HINT_ACK",
    "ADD_SERVERS",
    "ADD_SERVERS_ACK",
)


def _cell(message: str, fault: str) -> Cell:
    course = _COURSES.get(message, Course.MOVES)
    always = fault == "drop always"
    refused = course in (Course.FORGED, Course.REFUSED, Course.UNHEARD)
    stays = refused or (always and message in (*_BEGINS_THE_ATTEMPT, *_ENDS_THE_ATTEMPT))
    waits = course is Course.UNHEARD or (always and message in (*_ENDS_THE_ATTEMPT, "STATE_REJECT", "REJECT"))
    outcome = Outcome.STAYS if stays else Outcome.MOVED
    return Cell(message, fault, outcome, PATIENCE if waits else 0.0, course)


CELLS = tuple(_cell(message, fault) for message in MESSAGES for fault in FAULTS)


@dataclass(frozen=True)
class Step:
    """A place in a move where it can be stopped: a message is on its way."""

    number: int
    message: str
    sent: bool
    """Whether the message arrives; else whoever was to send it had not done so."""
    what: str


STEPS = (
    Step(1, "MIGRATE", False, "C has stopped listening to S1"),
    Step(2, "MIGRATE", True, "MIGRATE is on its way"),
    Step(3, "STATE_REQUEST", True, "the state request is on its way"),
    Step(4, "STATE_REPLY", False, "S1 has fenced and dumped"),
    Step(5, "STATE_REPLY", True, "the state reply is on its way"),
    Step(6, "ACCEPT", False, "S2 has restored the socket, its application has it"),
    Step(7, "ACCEPT", True, "ACCEPT is on its way"),
    Step(8, "ACK3", True, "C has committed"),
    Step(9, "DONE", True, "DONE is on its way"),
)


@dataclass(frozen=True)
class Deed:
    """What is done while moves are stopped, one at each of STEPS."""

    name: str
    what: str
    outcomes: str
    """Per step: m moves, s stays, b one or the other, e the client's own kernel gives up, as on plain TCP."""
    outage: float = 0.0
    """Seconds for which those that move are cut off."""

    def outcome(self, step: Step) -> str:
        return self.outcomes[step.number - 1]

    def stall(self, step: Step, held: float = 0.0) -> float:
        """Seconds for which the client's data may stop; the test itself has stopped the move for `held` seconds."""
        if self.outcome(step) == "e":
            return 2 * USER_TIMEOUT + held  # kernels look only when they repeat something
        outage = self.outage if self.outcome(step) == "m" else max(self.outage, PATIENCE)
        return longest_stall(outage + held)

    @property
    def late(self) -> bool:
        """Whether what it takes away is back only after C's patience."""
        return self.name.endswith("late")

    def cell(self, step: Step) -> str:
        """As the table says it."""
        outcome, seconds = self.outcome(step), f"{self.stall(step):g} s"
        words = {"m": f"moves, {seconds}", "s": f"stays, {seconds}", "b": f"moves or stays, {seconds}", "e": "error"}
        return words[outcome]


IN_TIME = 2.0
"""Seconds within which an agent that is started again is back, unless the machine is overloaded. Later is too late for
a move that needs it: others dial it every second, and repeat their requests every second, and C's patience is 5 s."""
LATE = 6.0
"""Seconds, longer than C's patience."""
DEEDS = (
    Deed("s2-agent", "S2's agent is killed, and back within 2 s", "mmmmmmmmm", IN_TIME),
    Deed("s1-agent", "S1's agent is killed, and back within 2 s", "mmmmmmmmm", IN_TIME),
    Deed("c-agent", "C's agent is killed, and back within 2 s", "sbbbbbmmm", IN_TIME),
    Deed("s2-agent-late", f"S2's agent is killed, and back after {LATE:g} s", "ssssssmmm"),
    Deed("s1-agent-late", f"S1's agent is killed, and back after {LATE:g} s", "ssssmmmmm"),
    Deed("s1-application", "S1's application is killed", "mmmmmmmmm"),
    Deed("s1-application-stopped", "S1's application is stopped (SIGSTOP)", "mmmmmmmmm"),
    Deed("s1-application-starved", "S1's application gets 1 % of a processor", "mmmmmmmmm"),
    Deed("control-reset", "the control connections are closed", "mmmmmmmmm"),
    Deed("control-cut", "the control network is cut for 1 s", "mmmmmmmmm", 1.0),
    Deed("control-gone", "the control network is cut", "ssssmmmmm"),
    Deed("link-cut", "C's link is cut for 1 s", "mmmmmmmmm", 1.0),
    Deed("link-gone", f"C's link is cut for {LATE:g} s", "sssssssmm", LATE),
    Deed("s1-host", "S1's host is gone", "eeeemmmmm"),
)


def messages_table() -> str:
    """Markdown."""
    rows = []
    for message in MESSAGES:
        cells = [cell for cell in CELLS if cell.message == message]
        rows.append([message, *(f"{c.outcome.value}, {longest_stall(c.outage):g} s" for c in cells)])
    return _table(["message", *FAULTS], rows)


def deaths_table() -> str:
    """Markdown."""
    return _table(
        ["", *(str(step.number) for step in STEPS)],
        [[deed.what, *(deed.cell(step) for step in STEPS)] for deed in DEEDS],
    )


def steps_table() -> str:
    """Markdown."""
    fate = {True: "arrives", False: "is lost with its sender"}
    rows = [[str(s.number), s.what, f"{s.message} {fate[s.sent]}"] for s in STEPS]
    return _table(["step", "where the move is stopped", "afterwards"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def with_tables(page: str) -> str:
    """docs/failures.md with the tables as they are now, each between its two marks."""
    for name, table in (("steps", steps_table()), ("messages", messages_table()), ("deaths", deaths_table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, rest = page.split(begin)
        page = f"{before}{begin}{table}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
