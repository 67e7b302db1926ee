"""Creation, attachment and pinning of a host's programs and maps, and taking over what is already pinned."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtcp.errors import MtcpError
from mtcp.linux.bpf import icmp, layout, loader, sockops, tc, transition
from mtcp.linux.bpf.filters import Filters
from mtcp.linux.bpf.layout import Maps
from mtcp.linux.bpf.loader import AttachType, BpfError, MapType, ProgramType

_SERVERS_PER_CONNECTION = 4  # on average: room for the ingress map
_RING_SIZE = 1 << 18  # bytes, a power of 2: 16 for each event and 8 for its header
_MAX_LISTENERS = 1024
_SIOCGIFHWADDR = 0x8927
_ETHERNET_TYPES = (1, 772)  # ARPHRD_ETHER; ARPHRD_LOOPBACK, which has Ethernet headers, too
_ATTACHED = (("ingress", AttachType.TCX_INGRESS), ("icmp", AttachType.TCX_INGRESS), ("egress", AttachType.TCX_EGRESS))
_PROGRAMS = ("sockops", "ingress", "icmp", "egress", "transition")


class DatapathError(MtcpError):
    """The datapath cannot be set up here; the message says in one line what to do."""


class Attachment:
    """Descriptors of all that the datapath consists of."""

    def __init__(
        self,
        maps: Maps,
        programs: dict[str, int],
        links: dict[str, int],
        filters: Filters,
        interfaces: frozenset[int],
        pin_dir: Path | None,
    ) -> None:
        self.maps = maps
        self.interfaces = interfaces
        self.transition = programs["transition"]
        self._descriptors = [*maps, *programs.values(), *links.values()]
        self._links = links
        self._filters = filters
        self._pin_dir = pin_dir

    @classmethod
    def open(cls, cgroup: Path, interfaces: Sequence[str], pin_dir: Path | None, capacity: int) -> Attachment:
        """Create, or take over what is pinned, and attach wherever it is not attached yet."""
        if not cgroup.is_dir() or not loader.is_cgroup2(cgroup):
            raise DatapathError(f"{cgroup} is not a cgroup v2 directory: mount cgroup2 and name a directory in it")
        indices = {name: _interface_index(name) for name in interfaces}
        goes_on = pin_dir is not None and pin_dir.exists()
        with contextlib.ExitStack() as undo, _explained():
            if pin_dir is None:
                maps, programs = _create(capacity, undo)
            else:
                maps, programs = _open_or_create_pinned(pin_dir, capacity, undo)
            links: dict[str, int] = {}
            filters = Filters()
            undo.callback(filters.close)
            if not goes_on:
                undo.callback(filters.remove)
            for name, link in _attach(cgroup, indices, programs, filters, pin_dir):
                undo.callback(os.close, link)
                links[name] = link
            undo.pop_all()
        return cls(maps, programs, links, filters, frozenset(indices.values()), pin_dir)

    def close(self) -> None:
        """Close the descriptors; what is not pinned goes with them."""
        if self._pin_dir is None:
            self._filters.remove()
        self._filters.close()
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors = []

    def detach(self) -> None:
        """Detach everywhere, even if another process holds descriptors, and remove the pins."""
        self._filters.remove()
        for fd in self._links.values():
            with contextlib.suppress(BpfError):  # ENOLINK: its interface or cgroup is gone
                loader.link_detach(fd)
        if self._pin_dir is not None:
            remove_pins(self._pin_dir)


def remove_pins(pin_dir: Path) -> None:
    """Remove a datapath's pins of whatever version; programs and maps go when no process holds them."""
    shutil.rmtree(pin_dir, ignore_errors=True)


def _create(capacity: int, undo: contextlib.ExitStack) -> tuple[Maps, dict[str, int]]:
    def kept(fd: int) -> int:
        undo.callback(os.close, fd)
        return fd

    def table(name: str, kind: MapType, key: int, value: int, size: int, flags: int = 0) -> int:
        return kept(loader.map_create(kind, key, value, size, f"{name}_v{layout.LAYOUT_VERSION}", flags))

    key = layout.TUPLE.SIZE
    maps = Maps(
        egress=table("egress", MapType.HASH, key, 4, capacity),
        ingress=table("ingress", MapType.HASH, key, 4, capacity * _SERVERS_PER_CONNECTION),
        entries=table("entries", MapType.ARRAY, 4, layout.ENTRY.SIZE, capacity, loader.MMAPABLE),
        free=table("free", MapType.QUEUE, 0, 4, capacity),
        events=table("events", MapType.RINGBUF, 0, 0, _RING_SIZE),
        listeners=table("listeners", MapType.HASH, 4, 4, _MAX_LISTENERS),
        keys=table("keys", MapType.QUEUE, 0, layout.KEY_LENGTH, capacity),
        handshakes=table("handshakes", MapType.LRU_HASH, key, layout.KEY_LENGTH, 2 * capacity),
        accepted=table("accepted", MapType.LRU_HASH, key, layout.ACCEPTED.SIZE, 2 * capacity),
        departed=table("departed", MapType.LRU_HASH, key, 4, 2 * capacity),
    )
    for index in range(capacity):
        loader.queue_push(maps.free, struct.pack("=I", index))
    programs = {
        "sockops": kept(
            loader.program_load(ProgramType.SOCK_OPS, sockops.program(maps), "mtcp_sockops", AttachType.SOCK_OPS)
        ),
        "ingress": kept(loader.program_load(ProgramType.SCHED_CLS, tc.ingress(maps), "mtcp_ingress")),
        "icmp": kept(loader.program_load(ProgramType.SCHED_CLS, icmp.program(maps), "mtcp_icmp")),
        "egress": kept(loader.program_load(ProgramType.SCHED_CLS, tc.egress(maps), "mtcp_egress")),
        "transition": kept(
            loader.program_load(
                ProgramType.SYSCALL, transition.program(maps), "mtcp_transition", flags=loader.SLEEPABLE
            )
        ),
    }
    return maps, programs


def _open_or_create_pinned(pin_dir: Path, capacity: int, undo: contextlib.ExitStack) -> tuple[Maps, dict[str, int]]:
    """Maps and programs are pinned under another name first: `pin_dir` has all of them or does not exist."""
    existing = next(parent for parent in pin_dir.absolute().parents if parent.is_dir())
    if not loader.is_bpffs(existing):
        raise DatapathError(f"{pin_dir} is in no BPF file system: mount -t bpf bpf {existing}")
    if pin_dir.exists():
        return _open_pinned(pin_dir, undo)
    pin_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    maps, programs = _create(capacity, undo)
    unfinished = pin_dir.with_name(pin_dir.name + "-unfinished")
    remove_pins(unfinished)
    unfinished.mkdir(mode=0o700)
    undo.callback(remove_pins, unfinished)
    for name, fd in maps._asdict().items():
        loader.pin(fd, unfinished / f"map_{name}")
    for name, fd in programs.items():
        loader.pin(fd, unfinished / f"program_{name}")
    unfinished.rename(pin_dir)
    undo.callback(remove_pins, pin_dir)
    return maps, programs


def _open_pinned(pin_dir: Path, undo: contextlib.ExitStack) -> tuple[Maps, dict[str, int]]:
    def opened(name: str) -> int:
        try:
            fd = loader.open_pin(pin_dir / name)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            raise DatapathError(
                f"{pin_dir} is not a datapath of this version: rm -r it, and moved connections break"
            ) from None
        undo.callback(os.close, fd)
        return fd

    maps = Maps(**{name: opened(f"map_{name}") for name in Maps._fields})
    programs = {name: opened(f"program_{name}") for name in _PROGRAMS}
    if not loader.map_info(maps.entries).name.endswith(f"_v{layout.LAYOUT_VERSION}"):
        raise DatapathError(f"{pin_dir} is not a datapath of this version: rm -r it, and moved connections break")
    return maps, programs


def _attach(
    cgroup: Path, indices: dict[str, int], programs: dict[str, int], filters: Filters, pin_dir: Path | None
) -> Iterator[tuple[str, int]]:
    """Name and descriptor of each link, made unless there is a live one; where there is no TCX, filters instead."""
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sockops_link = _link("link_sockops", programs["sockops"], cgroup_fd, AttachType.SOCK_OPS, pin_dir, cgroup)
        yield "link_sockops", sockops_link
    finally:
        os.close(cgroup_fd)
    for interface, index in indices.items():
        escaped = interface.replace("%", "%25").replace(".", "%2e")  # pins' names have no dots
        for position, (program, kind) in enumerate(_ATTACHED):
            name = f"link_{program}_{escaped}"
            try:
                link = _link(name, programs[program], index, kind, pin_dir)
            except BpfError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                with _explained_on(interface):
                    filters.attach(index, kind, position, programs[program], program)
            else:
                yield name, link


def _link(
    name: str, program: int, target: int, kind: AttachType, pin_dir: Path | None, cgroup: Path | None = None
) -> int:
    """A link of the program to an interface index or, given its path, to a cgroup's descriptor."""
    if pin_dir is None:
        return loader.link_create(program, target, kind)
    path = pin_dir / name
    link = _open_live_link(path, cgroup.stat().st_ino if cgroup else target)
    if link is None:
        link = loader.link_create(program, target, kind)
        loader.pin(link, path)
    return link


def _open_live_link(path: Path, identity: int) -> int | None:
    """A pinned link if it is still attached to this target; one whose interface or cgroup is gone is unpinned."""
    try:
        fd = loader.open_pin(path)
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    if loader.link_target(fd) == identity:
        return fd
    os.close(fd)
    path.unlink()
    return None


def _interface_index(name: str) -> int:
    request = struct.pack("16s24x", name.encode())
    try:
        index = socket.if_nametoindex(name)
        with socket.socket() as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, request)
    except OSError:
        raise DatapathError(f"there is no interface {name!r} in this network namespace: see `ip link`") from None
    if struct.unpack_from("=H", answer, 16)[0] not in _ETHERNET_TYPES:
        raise DatapathError(f"interface {name!r} has no Ethernet headers: leave it out")
    return index


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Kernel refusals in the user's words."""
    try:
        yield
    except BpfError as error:
        if error.errno in (errno.EPERM, errno.EACCES) and "program mtcp" not in str(error):
            message = "BPF is refused: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        elif error.errno == errno.ENOSYS:
            message = "this kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL"
        else:
            message = str(error)
        raise DatapathError(message) from error


@contextlib.contextmanager
def _explained_on(interface: str) -> Iterator[None]:
    """Kernel refusals of filters in the user's words."""
    try:
        yield
    except OSError as error:
        raise DatapathError(
            f"neither TCX nor a clsact filter on {interface} ({error.strerror}): use Linux 6.6 or later, or one with "
            f"CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF and no other ingress qdisc on {interface}"
        ) from None
