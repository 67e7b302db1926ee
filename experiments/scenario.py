"""What a scenario is: a network, something that goes wrong in it, and factors that one can vary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from experiments.plan import Trial
    from experiments.stage import Stage
    from topologies.running import Running

Value = float | int | str
Factors = Mapping[str, Value]

LINKS: Mapping[str, Factor]
"""What most scenarios let one vary of their links."""


@dataclass(frozen=True)
class Factor:
    """Something that can be varied."""

    default: Value
    meaning: str
    """In a few words, with its unit."""
    sweep: tuple[Value, ...] = ()
    """The values of a whole experiment; none: only the default."""
    small: Value | None = None
    """The value where an experiment is to be over soon (`--small`); None: the default."""
    least: float = 0.0
    """Of a number."""
    choices: tuple[str, ...] = ()
    """Of a text; none: those of `sweep`, if it has any."""

    def parse(self, text: str) -> Value:
        """`text` as a value of the default's type; ValueError says what is wrong with it."""
        if isinstance(self.default, str):
            choices = self.choices or self.sweep
            if choices and text not in choices:
                raise ValueError(f"{text} is none of {', '.join(map(str, choices))}")
            return text
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{text} is no number") from None
        if not self.least <= number < math.inf:
            raise ValueError(f"{text} is not a number from {self.least:g} on")
        return int(number) if isinstance(self.default, int) and number.is_integer() else number


LINKS = {
    "bw": Factor(100.0, "bandwidth of each service link [Mbit/s]", least=0.1),
    "rtt": Factor(20.0, "round-trip time between client and server [ms]"),
}
TIMES: Mapping[str, Factor] = {
    "before": Factor(4.0, "undisturbed transfer before the fault [s]", small=1.5, least=0.5),
    "after": Factor(10.0, "observed after the fault [s]", small=3.0, least=0.5),
}
"""Of the scenarios in which something happens to a server or its path."""


class Scenario:
    """A kind of trial. A subclass is one file of experiments.scenarios, whose docstring says what is done."""

    name: ClassVar[str]
    factors: ClassVar[Mapping[str, Factor]]
    mechanisms: ClassVar[tuple[str, ...]] = ("mtcp", "tcp", "reconnect", "mptcp", "quic")
    """Those that it compares unless told otherwise."""
    policy: ClassVar[str] = "throughput"
    """When connections leave a server, unless told otherwise: see `mtcp.policy`."""
    seconds: ClassVar[float] = 60.0
    """That a trial takes at most, beside `before` and `after`; then it hangs."""

    def unsupported(self, trial: Trial) -> str:
        """Why the trial's mechanism cannot do this at all, or ""."""
        return ""

    def capture(self, trial: Trial) -> str:
        """The packets that its runs capture, as tcpdump's filter; "": those that the mechanism says."""
        return ""

    def files(self, trial: Trial) -> tuple[str | int, ...]:
        """More options of the file servers: see testbed.services.files."""
        return ()

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[Running]:
        """The network, brought up; `settings` are those of topologies.running.bring_up."""
        raise NotImplementedError

    def perform(self, stage: Stage) -> None:
        """Let it happen. The captures run already, and end afterwards."""
        raise NotImplementedError


def only_mtcp(trial: Trial, why: str = "nobody but its own application could move the client's connection") -> str:
    """Of scenarios in which connections are moved from outside: `why` other mechanisms than M-TCP cannot do it."""
    return "" if trial.mechanism == "mtcp" else why
