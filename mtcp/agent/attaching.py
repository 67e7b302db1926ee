"""How a connection of an application becomes this agent's: just accepted, or held by an agent that has ended."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mtcp.address import FourTuple
from mtcp.agent.holding import ServerConnection
from mtcp.agent.taking import Taking
from mtcp.capsule import Capsule, CapsuleError, Fence, Origins, Record
from mtcp.errors import NotMigratable
from mtcp.linux import tcp_repair
from mtcp.linux.datapath import Datapath

if TYPE_CHECKING:
    from mtcp.agent.server import ServerSide


_SO_NETNS_COOKIE = 71


def attach(side: ServerSide, pid: int, fds: list[int], again: bool) -> None:
    """Process `pid` has a connection: its socket, capsule and lifeline, of which the agent keeps duplicates.

    `again`: another agent of this host had it before. NotMigratable says why it stays where it is.
    """
    now, datapath = time.monotonic(), side.datapath
    with ExitStack() as undo:
        try:
            sock, capsule = _duplicates(fds, undo)
            four_tuple = tcp_repair.four_tuple_of(sock)
            known = side.connection(four_tuple)
            if again and known is not None and known.has(capsule):
                known.watch(os.dup(fds[2]), pid)
                return
            recovered = again and capsule.record is not None
            if not recovered:
                # The capsule first: were the handshake's record dropped before, nobody would know the numbers any more.
                capsule.record = _fresh(datapath, four_tuple)
                datapath.forget(four_tuple)
            elif capsule.fence is Fence.MIGRATED:
                raise NotMigratable(f"{four_tuple} has moved to another server")
            connection = ServerConnection(side, sock, capsule, os.dup(fds[2]), pid)
            undo.callback(connection.unwatch)
            taking = None
            if recovered and capsule.taken:
                taking = Taking.recovered(side, connection, sock, capsule)
            elif recovered:
                connection.recover(now)
        except (CapsuleError, OSError) as error:
            raise NotMigratable(f"attach: {error}") from error
        undo.pop_all()
    side.add(connection)
    if taking is not None:
        side.add_taking(taking)
    else:
        connection.announce(now)
        connection.repeat_fin()
    side.event("attached_again" if again else "attached", connection, connection.role.attempt)


def _fresh(datapath: Datapath, four_tuple: FourTuple) -> Record:
    accepted = datapath.accepted(four_tuple)
    if accepted is None:
        raise NotMigratable(f"{four_tuple}: its client did not ask for M-TCP")
    return Record(accepted.key, Origins(accepted.rcv_nxt, accepted.snd_nxt, accepted.snd_nxt, 0), 0)


def _duplicates(fds: list[int], undo: ExitStack) -> tuple[socket.socket, Capsule]:
    """Of what an application attaches: an accepted TCP socket, its capsule, a pipe; NotMigratable if it is not that."""
    if len(fds) != 3:
        raise NotMigratable("attach needs three descriptors: socket, capsule and lifeline")
    sock = undo.enter_context(own_socket(fds[0]))
    # A memfd, before anything is opened: another file system's open might wait for whoever sent it.
    fcntl.fcntl(fds[1], fcntl.F_GET_SEALS)
    # Opened anew: a lock belongs to an open file description, and the application has its own.
    capsule = Capsule(os.open(f"/proc/self/fd/{fds[1]}", os.O_RDWR | os.O_CLOEXEC))
    undo.callback(capsule.close)
    if not stat.S_ISFIFO(os.fstat(fds[2]).st_mode):
        raise NotMigratable("the third descriptor is to be the reading end of a pipe")
    return sock, capsule


def own_socket(fd: int) -> socket.socket:
    """A duplicate of an application's TCP socket; NotMigratable or OSError when it is not one of this network."""
    copy = os.dup(fd)
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    try:
        if sock.proto != socket.IPPROTO_TCP or _network_of(sock) != _own_network():
            raise NotMigratable("that is no TCP socket of this agent's network namespace")
    except BaseException:
        sock.close()
        raise
    return sock


def _network_of(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


def _own_network() -> bytes:
    with socket.socket() as sock:
        return _network_of(sock)
