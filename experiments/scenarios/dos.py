"""Denial of service: an attacker floods S1 with SYNs, or with requests that cost much; nobody troubles S2.

A client asks S1 for files of 1 MB in turn, or downloads. At the time of the fault the attacker begins, behind a link
of its own.

`requests`: so many a second for 1 MB each, all on connections of their own: they want several times what S1's link
carries, and S1's processor, of which it has a share.

`syn`: connection attempts from forged sources; S1 answers them with cookies. They carry data, as some real ones do
("Tsunami", Radware, 2014: some 1000 bytes), and fill S1's link three times over: what hurts an established connection
is that its requests and acknowledgements are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import Factor
from experiments.scenarios.crowd import Crowd, until_end
from experiments.stage import Stage
from testbed.attack import syn
from testbed.generators import Generator
from topologies import dos
from topologies.running import Running

MORE = 1.1
"""SYNs sent, of those that the attacker's link carries."""


class Dos(Crowd):
    """See above."""

    name = "dos"
    factors: ClassVar[Mapping[str, Factor]] = {
        **Crowd.factors,
        "workload": replace(Crowd.factors["workload"], default="requests"),
        "kind": Factor("requests", "of the flood: syn or requests", sweep=("syn", "requests")),
        "rate": Factor(200, "requests a second", least=0.1),
        "flood": Factor(300.0, "SYNs, as many as the attacker's link carries [Mbit/s]", least=0.1),
        "payload": Factor(1000, "data in each SYN [bytes, even]"),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[Running]:
        if trial.factors["kind"] == "syn":
            settings["attack_bw"] = trial.factors["flood"]
        return super().network(trial, **settings)

    def troubles(self, stage: Stage, target: str) -> list[Generator]:
        kind, attacker = str(stage.trial.factors["kind"]), stage.network.net["attacker"]
        words: dict[str, tuple[object, ...]] = {
            "syn": ("--payload", int(stage.factor("payload")), "--sources", dos.FORGED, "--rate", self._syns(stage)),
            "requests": ("--path", "/medium", "--rate", stage.factor("rate")),
        }
        more = ("--seed", stage.trial.seed, *until_end(stage))
        return [
            Generator(attacker, "testbed.attack", kind, target, *words[kind], *more, log=stage.run.path("attack.log"))
        ]

    def _syns(self, stage: Stage) -> float:
        """A second."""
        return MORE * stage.factor("flood") * 1e6 / 8 / (syn.HEADERS + stage.factor("payload"))
