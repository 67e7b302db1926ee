"""Hosts for the roles in tests: they keep what a role did, and fail when they are told to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason
from mtcp.roles.client import ClientRole, Mark
from mtcp.roles.machine import Machine
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.snapshot import Refused, SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire.frames import Frame, StateReplyFrame, StateRequest
from mtcp.wire.options import Accept, Ack3, AnyOption, Migrate, migrate_mac

KEY = b"8 bytes!"
S1, S2, S3 = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))
C = Endpoint("10.0.0.9", 50000)
OLD, NEW = FourTuple(S1, C), FourTuple(S2, C)
MIGRATE = Migrate(S1, 100, 1).signed(KEY, C, S2)
TAG = MIGRATE.mac
REQUEST = StateRequest(OLD, NEW, 100, 1, TAG)
REPLY = StateReply(
    5, 6, 90, 100, 10, TcpSnapshot(1, 1, 7, 1460, 7, 7, 0, 9, 9, 9, 0), SoSnapshot(0, 0, -1), KEY, 1, b"", b"", b"r"
)
REPLY_FRAME = StateReplyFrame(OLD, TAG, REPLY)
ACCEPT, ACK3 = Accept(1).signed(KEY), Ack3(1).signed(KEY)


def signed_request(attempt: int, **changes: Any) -> StateRequest:
    """What the new server makes of a genuine MIGRATE."""
    request = replace(REQUEST, attempt=attempt, **changes)
    return replace(request, mac=migrate_mac(KEY, request.old, request.new.local, request.rcv_nxt, attempt))


def run_timer(role: Machine, seconds: float) -> None:
    """Call on_timer as a driver does, at each deadline within `seconds`."""
    while role.deadline is not None and role.deadline <= seconds:
        role.on_timer(role.deadline)


class Recorder:
    """Keeps what was done."""

    def __init__(self) -> None:
        self.did: list[Any] = []

    def take(self) -> list[Any]:
        """All since the last time."""
        done, self.did = self.did, []
        return done


class ServerHost(Recorder):
    """The ports of both servers' roles."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse: Reason | None = None
        self.restore_fails: OSError | None = None
        self.application = True

    # old server
    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        self.did.append("fence")
        if self.refuse is not None:
            raise Refused(self.refuse)
        return replace(REPLY, attempt=attempt)

    def resume(self) -> None:
        self.did.append("resume")

    def close_silently(self) -> None:
        self.did.append("close")

    # new server
    def unwilling(self) -> Reason | None:
        return None if self.application else Reason.NO_APPLICATION

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        self.did.append("restore")
        if self.restore_fails is not None:
            raise self.restore_fails

    def discard(self) -> None:
        self.did.append("discard")

    def send(self, option: AnyOption) -> None:
        self.did.append(option)

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        self.did.append((server, frame))
        return True


class ClientHost(Recorder):
    """The port of the client's role."""

    def __init__(self) -> None:
        super().__init__()
        self.attempt = 0
        self.committed = False

    def begin_mapping(self, server: Endpoint) -> Mark:
        self.attempt += 1
        self.did.append("begin")
        return Mark(100, self.attempt)

    def abort_mapping(self) -> bool:
        self.did.append("abort mapping")
        return not self.committed

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        self.did.append(("moved" if moved else "kept", server, reason))

    def send(self, server: Endpoint, option: AnyOption) -> None:
        self.did.append((server, option))


def old_server() -> tuple[OldServerRole, ServerHost]:
    """One whose connection has never moved."""
    host = ServerHost()
    return OldServerRole(OLD, KEY, 0, host), host


def fenced() -> tuple[OldServerRole, ServerHost]:
    """One that has answered REQUEST."""
    role, host = old_server()
    role.on_request(REQUEST, 0.0)
    host.take()
    return role, host


def new_server() -> tuple[NewServerRole, ServerHost]:
    """One that MIGRATE is about to reach."""
    host = ServerHost()
    return NewServerRole(NEW, MIGRATE, 500, host), host


def restored() -> tuple[NewServerRole, ServerHost]:
    """One that has sent ACCEPT."""
    role, host = new_server()
    role.on_migrate_syn(0.0)
    role.on_frame(REPLY_FRAME, 0.1)
    host.take()
    return role, host


def client() -> tuple[ClientRole, ClientHost]:
    """One that is with S1."""
    host = ClientHost()
    return ClientRole(FourTuple(C, S1), KEY, S1, host), host
