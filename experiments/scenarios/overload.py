"""Overload: S1's CPU is taken away, by processes that compute there and by requests of others.

S1 and S2 are small machines: each has a share of a core. A client downloads from S1, or asks it for files of 1 MB in
turn. At the time of the fault others come, who ask S1 for small files as fast as they get them, and processes begin to
compute on S1, in steps: a host whose workers all compute at once. S1's link is never full.

What it takes, measured with a quarter of a core: who passes a file to the kernel needs little CPU time, so that a
download at 100 Mbit/s keeps 90 % beside the requests of 256 others, and 80, 50 and 25 % beside 16, 48 and 128 computing
processes. The server's threads wait for the processor; when one waits that has Python's lock, all do: together with 32
others, 64 processes are enough for 15 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from experiments.scenario import Factor
from experiments.scenarios.crowd import Crowd, until_end
from experiments.stage import Stage
from testbed.generators import Generator

EVERY = 0.5
"""Seconds from one step to the next."""


class Overload(Crowd):
    """See above."""

    name = "overload"
    factors: ClassVar[Mapping[str, Factor]] = {
        **Crowd.factors,
        "burners": Factor(96, "processes that compute on S1, in the end"),
        "steps": Factor(3, "in which they begin, half a second apart", least=1),
        "others": Factor(32, "clients who ask S1 for small files without a pause"),
    }

    def troubles(self, stage: Stage, target: str) -> list[Generator]:
        burners, others = int(stage.factor("burners")), int(stage.factor("others"))
        started = []
        if burners:
            steps = ("--processes", burners, "--steps", int(stage.factor("steps")), "--every", EVERY)
            words: tuple[object, ...] = ("burn", *steps, *until_end(stage))
            started.append(
                Generator(stage.network.net["s1"], "testbed.load", *words, log=stage.run.path("burners.log"))
            )
        if others:
            words = ("closed", target, "--path", "/small", "--clients", others, *until_end(stage))
            started.append(
                Generator(stage.network.net["attacker"], "testbed.load", *words, log=stage.run.path("others.log"))
            )
        return started
