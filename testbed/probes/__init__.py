"""Probes: what a host's kernel knows, sampled 20 to 100 times a second by a process beside it.

A probe appends to <prefix><host>.csv while it runs, so that a killed run keeps its samples; when it is stopped, that
becomes <prefix><host>.parquet. One row is one value (COLUMNS), which holds until the next row of the same metric:
what does not change is written once. `analysis.probes` reads both, and gives the values at every sample.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import cgroups, sandbox
from testbed.processes import CommandError, Program

COLUMNS = ("monotonic_ns", "host", "probe", "subject", "metric", "value")
"""Time of the sample (CLOCK_MONOTONIC); Mininet's name; tcp, qdisc, cpu, netstat or sampler; connection, queue …"""
HZ = 50.0


class Bottlenecks:
    """The bottlenecks of a network's links, to be probed as if they were a host: "links", a queue per direction."""

    name = "links"

    def __init__(self, net: Any) -> None:
        """Of the links that a testbed.network.Network has now. CommandError if nothing is emulated on any."""
        middle, ports = net.bottlenecks()
        if not ports:
            raise CommandError("the links have no bottlenecks: give one a bw")
        self.pid = os.getpid()
        self.namespace = f"/proc/{self.pid}/fd/{middle.fd}"
        self.queues = [f"{port}={name}" for port, name in ports.items()]

    def __str__(self) -> str:
        return self.name


class Probe:
    """A probe of a host, or of a switch, from construction until `stop` (or the end of the `with` block)."""

    def __init__(
        self,
        host: Any,
        path: Path,
        hz: float = HZ,
        *,
        tcp: Sequence[int] | None = (),
        qdisc: Sequence[str] = (),
        cpu: bool = True,
        netstat: bool = True,
    ) -> None:
        """Sample `host` (whatever has its namespaces: `pid`) `hz` times a second; `path`: the .parquet file to be.

        Of Bottlenecks, only their queues.

        `tcp`: the ports whose connections and listeners are sampled, () all of them, None none. `qdisc`: interfaces
        in the host's network namespace. `cpu`: its control group, if it has one. `netstat`: all counters of its IP and
        TCP. Returns when the first sample has been written; CommandError if that does not happen.
        """
        self.path = path
        self.csv = path.with_suffix(".csv")
        command: list[str | Path] = [sys.executable, "-m", "testbed.probes", "--hz", f"{hz:g}", "--host", str(host)]
        command += ["--out", self.csv]
        if isinstance(host, Bottlenecks):
            command = ["nsenter", f"--net={host.namespace}", *command, "--qdisc", *host.queues]
        else:
            command += [] if tcp is None else ["--tcp", *map(str, tcp)]
            command += ["--qdisc", *qdisc] if qdisc else []
            command += ["--cpu", *_groups(host)] if cpu and hasattr(host, "cgroup") else []
            command += ["--netstat"] if netstat else []
        path.unlink(missing_ok=True)
        self._program = Program(host, command, path.with_suffix(".log"), beside=True)
        try:
            self._program.wait_for("sampling")
        except BaseException:
            self._program.stop()
            raise

    def stop(self) -> Path:
        """End it, after a last sample; the path of its samples. CommandError if it had died: the CSV file is left."""
        if self.csv.exists():
            code = self._program.stop(signal.SIGTERM, timeout=20)
            if code:
                last = " | ".join(self._program.output().strip().splitlines()[-3:])
                raise CommandError(f"{self._program.name} has died, code {code}: {last}")
            _convert(self.csv, self.path)
            self.csv.unlink()
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def probing(
    hosts: Iterable[Any],
    directory: Path,
    prefix: str = "probes-",
    qdisc: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> Iterator[dict[str, Probe]]:
    """Probes of all `hosts`, from before the block until after it, by the hosts' names.

    `qdisc`: interfaces by host; other `options`: see Probe. CommandError, and no probe is left, when one does not start
    or has died.
    """
    interfaces = qdisc or {}

    def start(host: Any) -> tuple[str, Probe]:
        path = directory / f"{prefix}{host}.parquet"
        return host.name, stack.enter_context(Probe(host, path, qdisc=interfaces.get(host.name, ()), **options))

    hosts = list(hosts)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(hosts) or 1) as pool:
        yield dict([job.result() for job in [pool.submit(start, host) for host in hosts]])


def _groups(host: Any) -> list[Path]:
    """Where the host's cpu.stat are: its control group, and where version 1 has, or will have, its quota."""
    root = cgroups.v1_mount_point("cpu")
    # Hosts do not see /sys/fs/cgroup, but as this process sees it.
    return [host.cgroup] + (
        [] if root is None else [Path(f"/proc/{os.getpid()}/root{root}", sandbox.name(), host.name)]
    )


def _convert(csv: Path, parquet: Path) -> None:
    # Only here: the process that samples shall start fast and be small.
    import pyarrow
    from pyarrow import csv as reader
    from pyarrow import parquet as writer

    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    types = dict.fromkeys(COLUMNS, text) | {"monotonic_ns": pyarrow.int64(), "value": pyarrow.float64()}
    options = reader.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False)
    writer.write_table(reader.read_csv(csv, convert_options=options), parquet)
