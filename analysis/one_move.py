"""One move, from the captures and the agents' events: what the figures of single moves are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import capture, migrations, verdict
from analysis.connections import of_client
from analysis.metrics import wire
from analysis.run import CLIENT, Run
from analysis.segments import kinds
from analysis.trials import Trial

EXCHANGED = ("MIGRATE", "ACCEPT", "ACK3", "REJECT", "ABORT", "ABORT_ACK", "QUERY", "REFUSAL")
"""The control segments that a move is made of."""
TOLD = (
    ("STATE_REQUEST", "new", "state_request_sent", "request_received"),
    ("STATE_REPLY", "old", "state_reply_sent", "reply_received"),
    ("DONE", "new", "done_sent", "left"),
)
"""(message between servers, who sends it, event of sending, event of receiving): TLS hides them from captures."""
NOTED = (("fenced", "old", "fenced"), ("restored", "new", "restored"))
"""(what happened at a server, which one, its event)."""
BEFORE, AFTER, FAR = 0.6, 1.4, 4.0
"""How much is shown before and after a move, and at most before it: times decision to first new byte."""
REACH = 5_000.0
"""Ms from sending to arrival, at most."""
SHOWN = 2
"""Times that a repeated control segment is a message of its own."""

Evidence = Literal["control", "data", "agents"]


@dataclass(frozen=True)
class Message:
    """Something that one host sent to another; times in ms since the decision."""

    label: str
    src: str
    dst: str
    sent_ms: float
    received_ms: float | None
    """None: it did not arrive."""
    evidence: Evidence
    """A control segment or data, in the captures; or what the agents say of a message on the control network."""
    refused: bool = False
    """By the client's mapping."""


@dataclass(frozen=True)
class Note:
    """Something that happened at a host."""

    label: str
    host: str
    ms: float


@dataclass(frozen=True)
class Move:
    """A move that committed, and that the capture at the client shows."""

    run: Run
    ends: migrations.Ends
    trace: migrations.Trace
    captures: Mapping[str, pd.DataFrame]
    report: Mapping[str, Any]
    """As a row of migrations.reported."""

    @property
    def old(self) -> str:
        return str(self.report["from"])

    @property
    def new(self) -> str:
        return str(self.report["to"])

    @property
    def zero_ns(self) -> int:
        """The decision: from when all times here count."""
        return int(self.report["decided_ns"])

    @property
    def stall_ms(self) -> float:
        """As in migrations.Trace."""
        return float(self.report["stall_ms"])

    @property
    def about(self) -> str:
        """Which one it is, in words."""
        return f"{self.old.upper()} → {self.new.upper()}, attempt {self.report['attempt']} of the connection"

    @property
    def committed_ms(self) -> float:
        return float(self._ms(self.report["committed_ns"]))

    @property
    def new_ms(self) -> float:
        """The new server's first new byte."""
        return float(self._ms(self.report["new_ns"]))

    @cached_property
    def noted(self) -> dict[tuple[str, str], float]:
        """When the agents noted what of this attempt, for the first time: by (event, host)."""
        found: dict[tuple[str, str], float] = {}
        offset = self.run.realtime_minus_monotonic_ns
        for event in self.run.events:
            if event.get("attempt") == self.report["attempt"] and _end(event) == self.report["client"]:
                key = str(event["event"]), str(event.get("host", ""))
                found.setdefault(key, float(self._ms(event["monotonic_ns"] + offset)))
        return found

    @property
    def fenced_ms(self) -> float | None:
        """When the old server's application could act no more."""
        return self.noted.get(("fenced", self.old))

    @cached_property
    def last_ms(self) -> float:
        """The old server's last data before the decision; 0 if there was none."""
        deliveries = self.trace.deliveries
        times = deliveries.loc[deliveries["server"] == self.old, "time_ns"].to_numpy(np.int64)
        before = times[times < self.zero_ns]
        return float(self._ms(before[-1])) if len(before) else 0.0

    @cached_property
    def window(self) -> tuple[float, float]:
        """The stretch of time (ms) around the move that is shown: so much more than the move itself, and no other move;
        also the old server's last data, unless that was long before."""
        news = self._ms(self.trace.moves["new_ns"].to_numpy(np.int64))
        earlier, begin = float(max(news[news < 0], default=-np.inf)), -BEFORE * self.new_ms
        if -FAR * self.new_ms < self.last_ms < begin:
            begin = self.last_ms - BEFORE * self.new_ms / 2
        return max(begin, earlier), min((1 + AFTER) * self.new_ms, self._next_ms)

    @property
    def _next_ms(self) -> float:
        """When the next move begins, if there is one."""
        starts = self._ms(self.trace.moves["syn_ns"].to_numpy(np.int64))
        return float(min(starts[starts > self.new_ms], default=np.inf))

    @cached_property
    def segments(self) -> pd.DataFrame:
        """The data around the move, as the client's capture shows it: `ms`, `server`, `offset`, `end`, `refused` (it
        came from a server whom the mapping did not hear then), `again` (the server had sent beyond its begin before).
        """
        deliveries = self.trace.deliveries
        found = deliveries.assign(ms=self._ms(deliveries["time_ns"].to_numpy(np.int64)))
        found = found[found["ms"].between(*self.window)]
        found["end"] = found["offset"] + found["payload"]
        found["refused"] = found["server"] != np.where(found["ms"] < 0, self.old, self.new)
        furthest = found.groupby("server")["end"].transform(lambda end: end.cummax().shift(fill_value=0))
        found["again"] = ~found["refused"] & (found["offset"] < furthest)
        return found[["ms", "server", "offset", "end", "refused", "again"]].reset_index(drop=True)

    @cached_property
    def acknowledgements(self) -> pd.DataFrame:
        """What the client acknowledged meanwhile, and last before: `ms`, `server` (to whom), `offset`."""
        acks = self.trace.acknowledgements
        found = acks.assign(ms=self._ms(acks["time_ns"].to_numpy(np.int64)))
        before = (found["ms"] < self.window[0]).sum()
        return found[(found["ms"] <= self.window[1]) & (found.index >= before - 1)].reset_index(drop=True)

    @cached_property
    def messages(self) -> list[Message]:
        """What the move was made of, in order of sending."""
        found = [*self._exchanged(), *self._told(), *self._data()]
        return sorted(found, key=lambda message: message.sent_ms)

    @cached_property
    def notes(self) -> list[Note]:
        """What happened at the hosts, by the agents' events."""
        host = {"old": self.old, "new": self.new}
        found = [Note("decision", CLIENT, 0.0), Note("commit", CLIENT, self.committed_ms)]
        found += [
            Note(label, host[who], self.noted[event, host[who]])
            for label, who, event in NOTED
            if (event, host[who]) in self.noted
        ]
        return found

    def _exchanged(self) -> Iterator[Message]:
        """The control segments, each by the captures at both ends."""
        for server in (self.old, self.new):
            for src, dst in ((CLIENT, server), (server, CLIENT)):
                sent, received = (self._control(at, src, dst) for at in (src, dst))
                for kind, mine in sent.groupby("kind", observed=True):
                    times = mine["ms"].tolist()
                    arrivals = _arrivals(times, received.loc[received["kind"] == kind, "ms"].tolist())
                    more = f"{kind}, and {len(times) - SHOWN} more" if len(times) > SHOWN else str(kind)
                    for number, (ms, arrived) in enumerate(zip(times[:SHOWN], arrivals, strict=False), 1):
                        yield Message(more if number == SHOWN else str(kind), src, dst, ms, arrived, "control")

    def _control(self, at: str, src: str, dst: str) -> pd.DataFrame:
        """The control segments from one host to another in the capture at one of them: `ms`, `kind`."""
        packets = self._near[at]
        packets = packets[(packets["src"] == self._address(src)) & (packets["dst"] == self._address(dst))]
        found = pd.DataFrame({"ms": self._ms(packets["time_ns"].to_numpy(np.int64)), "kind": kinds(packets)})
        begun, until = -migrations.CLOCK_SLACK_NS / 1e6, self.window[1] if at == src else self._next_ms
        return found[found["kind"].isin(EXCHANGED) & found["ms"].between(begun, until)]

    def _told(self) -> Iterator[Message]:
        """The messages between the servers, by the agents' events."""
        size = self.report.get("shipped")
        for name, who, sent, received in TOLD:
            src, dst = (self.new, self.old) if who == "new" else (self.old, self.new)
            if (sent, src) in self.noted and (received, dst) in self.noted:
                arrived = self.noted[received, dst]
                label = name
                if name == "STATE_REPLY" and not pd.isna(size):
                    label += f", {size:_} B".replace("_", "\u202f")
                # Agents note what they have sent after they have sent it.
                yield Message(label, src, dst, min(self.noted[sent, src], arrived), arrived, "agents")

    def _data(self) -> Iterator[Message]:
        """The old server's last data that the client let in, the first that it refused, and the new server's first."""
        segments, deliveries = self.segments, self.trace.deliveries
        of_old = deliveries[(deliveries["server"] == self.old) & (deliveries["time_ns"] < self.zero_ns)][-1:]
        last = of_old.assign(ms=self.last_ms, refused=False)
        refused = segments[(segments["server"] == self.old) & segments["refused"]]
        count = f"first of {len(refused)} refused" if len(refused) > 1 else "data, refused"
        chosen = [
            ("last data", last), (count, refused[:1]),
            ("first new data", segments[(segments["server"] == self.new) & (segments["ms"] >= self.new_ms - 1e-6)][:1]),
        ]  # fmt: skip
        for label, row in chosen:
            if len(row):
                ms, server = float(row["ms"].iloc[0]), str(row["server"].iloc[0])
                sent = self._sent(server, ms)
                if sent is not None:
                    yield Message(label, server, CLIENT, sent, ms, "data", bool(row["refused"].iloc[0]))

    def _sent(self, server: str, arrived: float) -> float | None:
        """When the server sent what arrived at the client then, by its own capture."""
        ours, theirs = self._near[CLIENT], self._near[server]
        seen = ours[(ours["src"] == self._address(server)) & (ours["payload"] > 0)]
        at = self._ms(seen["time_ns"].to_numpy(np.int64))
        seq = int(seen["seq"].iloc[int(np.abs(at - arrived).argmin())])
        sent = theirs[(theirs["src"] == self._address(server)) & (theirs["payload"] > 0)]
        when = self._ms(sent["time_ns"].to_numpy(np.int64))
        # A segment of the sender's may be several at the receiver (GSO).
        covers = (seq - sent["seq"].to_numpy(np.int64)) % 2**32 < sent["payload"].to_numpy(np.int64)
        found = when[covers & (when <= arrived)]
        return float(found[-1]) if len(found) else None

    @cached_property
    def _near(self) -> dict[str, pd.DataFrame]:
        """The connection's segments at the three hosts, from REACH before all that is shown to REACH after it."""
        shown = np.array([min(self.last_ms, self.window[0]) - REACH, self.window[1] + REACH])
        found = {}
        for host in (CLIENT, self.old, self.new):
            packets = self.captures[host]
            first, last = np.searchsorted(packets["time_ns"].to_numpy(np.int64), self.zero_ns + shown * 1e6)
            near = of_client(packets.iloc[first:last], self.ends.client)
            ours = (near["port"] == self.ends.client_port) & (near["service"] == self.ends.service_port)
            found[host] = near[ours]
        return found

    def _address(self, host: str) -> int:
        return capture.address(self.ends.client if host == CLIENT else self.ends.servers[host])

    def _ms(self, time_ns: Any) -> Any:
        """Since the decision."""
        return (time_ns - self.zero_ns) / 1e6


def typical(
    run: Run,
    ends: Sequence[migrations.Ends],
    traces: Sequence[migrations.Trace],
    reported: pd.DataFrame,
    captures: Mapping[str, pd.DataFrame],
) -> Move | None:
    """The run's move whose stall is the median of all (of an even number, the lower one of the two in the middle).

    None if there is no move that committed and that the captures of the client and of both servers show.
    """
    if reported.empty or CLIENT not in captures:
        return None
    servers = list(captures)
    seen = reported[reported["committed"] & reported["new_ns"].notna()]
    seen = seen[seen["from"].isin(servers) & seen["to"].isin(servers)].sort_values("stall_ms", kind="stable")
    if seen.empty:
        return None
    chosen = {str(name): value for name, value in seen.iloc[(len(seen) - 1) // 2].items()}
    places = {f"{each.client}:{each.client_port}": place for place, each in enumerate(ends)}
    place = places.get(chosen["client"], 0)
    return Move(run, ends[place], traces[place], captures, chosen)


def of_trial(trial: Trial) -> Move | None:
    """The typical move of a trial of M-TCP; None where its captures do not allow one."""
    captures = verdict.read_captures(trial.run)[0] if "hosts" in trial.run.facts else {}
    seen = wire.look(trial, captures)
    return typical(trial.run, seen.ends, seen.traces, seen.reported, captures) if seen else None


def _arrivals(sent: Sequence[float], received: Sequence[float]) -> list[float | None]:
    """When each of several equal segments arrived; None: never. Of two, the one that was repeated is the lost one."""
    found: list[float | None] = [None] * len(sent)
    place = len(sent) - 1
    for arrived in reversed(received):
        while place >= 0 and sent[place] > arrived:
            place -= 1
        if place >= 0:
            found[place] = arrived
            place -= 1
    return found


def _end(event: Mapping[str, Any]) -> str:
    """The client's end of the connection that the event is about, however it writes it."""
    connection = event.get("connection", "")
    return connection if isinstance(connection, str) else "{}:{}".format(*connection)
