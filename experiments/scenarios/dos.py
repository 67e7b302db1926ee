"""Denial of service: an attacker floods S1 with requests that cost much, or with SYNs; nobody troubles S2.

A client asks S1 for files of 1 MB in turn, or downloads. At the time of the fault the attacker begins, behind a link
of its own.

`requests`: so many a second for 1 MB each, all on connections of their own: they want several times what S1's link
carries, and S1's processor, of which it has a share.

`syn`: connection attempts from forged sources, as many as fill S1's link. S1 answers each with a cookie that is as long
as the SYN: so they fill its link the other way, too, which the client's data takes. Two processors send enough of them
for 10 Mbit/s, not for 100: --set kind=syn --set bw=10. Measured there: plain TCP keeps 6 % of a download, and 40 % of
requests, beside 17,000 and 13,000 SYNs a second.

SYNs with data (--set payload=1000; "Tsunami", Radware, 2014) fill only the way to S1, where requests and
acknowledgements are lost: of three times what the link carries, and even of ten times, a download feels little (it
keeps some 90 %), for one acknowledgement does for all before it; requests keep half.
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
from testbed.generators import LIMITS, Generator
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
        "kind": Factor("requests", "of the flood: requests or syn", choices=("requests", "syn")),
        "rate": Factor(200, "requests a second", least=0.1),
        "flood": Factor(1.2, "SYNs, times what S1's link carries", least=0.1),
        "payload": Factor(0, "data in each SYN [bytes, even]"),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[Running]:
        if trial.factors["kind"] == "syn":
            settings["attack_bw"] = float(trial.factors["flood"]) * float(trial.factors["bw"])
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
        wanted = MORE * stage.factor("flood") * stage.factor("bw") * 1e6 / 8 / (syn.HEADERS + stage.factor("payload"))
        return min(wanted, LIMITS.rate)
