"""Watches a film with ffmpeg, as it is: ffmpeg reads it from a URL and decodes it in real time.

    python -m testbed.clients.video http://10.0.0.1/film.ts --frames FILE --servers s1=10.0.0.1:80 --end-at 1254.5
        --out DIR [--input=-reconnect --input=1 …]

This program starts ffmpeg at --start-at, looks at what it prints, a line for each frame that it has decoded, and ends
it at --end-at if it has not ended. Instants are seconds of CLOCK_MONOTONIC. The viewer is --buffer seconds behind
ffmpeg. When a segment, half a second of film, is not decoded by the time that it is to be shown, the viewer waits,
and sees all that follows so much later. In DIR:

    client.json       exit, error, every_byte_right (each frame is that of FILE, where the film was decoded when it was
                      made), bytes, connections, started_ns, and `video`: how many frames there are, and how many
                      were right and wrong; how many errors and warnings ffmpeg has told
    ffmpeg.log        all that ffmpeg complained of
    playout.parquet   segment, wanted_at_ns, done_ns; the last one is not done if the film was not seen to its end
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtcp.address import Endpoint, unpack_ip
from testbed.clients.http import servers
from testbed.film import PICTURES_PER_S, Frame, decoding, frames_of

SEGMENT = 0.5
"""Seconds of film."""
LOOK_EVERY = 0.05
"""Seconds between looks at ffmpeg's sockets."""
INPUT = (
    *("-re", "-skip_estimate_duration_from_pts", "1"),
    *("-analyzeduration", "500000", "-probesize", "500000"),
)
"""In real time; without a look at the film's end for its duration, by a request of its own; and with half a second (in
µs), or as many bytes, to find out what the streams are. Usually that is five seconds, which it then need not read when
it shows them."""
SYN_SENT = 2
"""State of a socket that is not connected yet."""


class Viewer:
    """Holds the decoded frames against those of the film, and sees when each segment is complete."""

    def __init__(self, expected: Iterable[Frame], buffer: float) -> None:
        """`buffer`: seconds from the first decoded picture to the moment when it is shown."""
        self._expected = {(frame.stream, frame.at): frame.content for frame in expected}
        self._pictures = sorted(at for stream, at in self._expected if stream == 0)
        self._buffer = buffer
        self._seen: set[tuple[int, float]] = set()
        self._due: float | None = None
        """When the first picture is to be shown, and later by all the time for which the viewer has waited since."""
        self.wrong = 0
        self.playout: list[tuple[int, int, int | None]] = []

    @property
    def counts(self) -> dict[str, int]:
        """Of frames."""
        return {"frames": len(self._expected), "frames_right": len(self._seen), "frames_wrong": self.wrong}

    @property
    def complete(self) -> bool:
        return len(self._seen) == len(self._expected)

    def on_frame(self, frame: Frame, now: float) -> None:
        """ffmpeg has decoded it."""
        place = frame.stream, frame.at
        if self._expected.get(place) != frame.content or place in self._seen:
            self.wrong += 1
            return
        self._seen.add(place)
        if frame.stream == 0:
            if self._due is None:
                self._due = now + self._buffer
            self._picture(frame.at, now)

    def _picture(self, at: float, now: float) -> None:
        number, shown = len(self.playout), at - self._pictures[0] + 1 / PICTURES_PER_S
        if round(shown / SEGMENT, 6) < number + 1 and at < self._pictures[-1]:
            return
        wanted = self._wanted(number)
        self.playout.append((number, round(wanted * 1e9), round(now * 1e9)))
        assert self._due is not None
        self._due += max(0.0, now - wanted)

    def _wanted(self, segment: int) -> float:
        assert self._due is not None
        return self._due + segment * SEGMENT

    def end(self) -> None:
        """No more comes: of what was to be shown next the viewer sees nothing."""
        if self._due is not None and not self.complete:
            number = len(self.playout)
            self.playout.append((number, round(self._wanted(number) * 1e9), None))


class Connections(threading.Thread):
    """The TCP connections of a process, in order."""

    def __init__(self, pid: int, names: Mapping[str, Endpoint]) -> None:
        super().__init__(daemon=True)
        self._pid, self._names = pid, {str(each): name for name, each in names.items()}
        self._ended = threading.Event()
        self.found: dict[int, dict[str, Any]] = {}

    def run(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        links = [link.readlink().name for link in Path(f"/proc/{self._pid}/fd").iterdir()]
        mine = {link[8:-1] for link in links if link.startswith("socket:[")}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if inode in mine and int(state, 16) != SYN_SENT:
                port, peer = _endpoint(local).port, str(_endpoint(remote))
                self.found.setdefault(port, {"server": self._names.get(peer, peer), "local_port": port})

    def end(self) -> list[dict[str, Any]]:
        """All that there were."""
        self._ended.set()
        self.join()
        return [*self.found.values()]


def _endpoint(text: str) -> Endpoint:
    """As /proc/net/tcp writes it."""
    address, port = text.split(":")
    return Endpoint(unpack_ip(int(address, 16).to_bytes(4, sys.byteorder)), int(port, 16))


def complaints(log: str) -> dict[str, list[str]]:
    """The lines of ffmpeg's log that say of the film that it is not right, of the network, and that only warn."""
    lines = log.splitlines()
    errors = [line for line in lines if re.search(r"\[(error|fatal|panic)\]", line)]
    network = [line for line in errors if re.match(r"\[(http|tcp) @", line) or line.endswith(": Input/output error")]
    return {
        "decode_errors": [line for line in errors if line not in network],
        "network_errors": network,
        "warnings": [line for line in lines if "[warning]" in line],
    }


def watch(options: argparse.Namespace, viewer: Viewer) -> dict[str, Any]:
    """Have ffmpeg decode the film; what came of it, as of client.json."""
    started_ns = time.monotonic_ns()
    with (options.out / "ffmpeg.log").open("wb") as log:
        command = decoding(options.url, *INPUT, *options.input)
        ffmpeg = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
    connections = Connections(ffmpeg.pid, options.servers)
    connections.start()
    too_late = threading.Timer(max(0.0, options.end_at - time.monotonic()), ffmpeg.kill)
    too_late.start()
    assert ffmpeg.stdout is not None
    for frame in frames_of(_whole(ffmpeg.stdout)):
        viewer.on_frame(frame, time.monotonic())
    code = ffmpeg.wait()
    hung = too_late.finished.is_set()
    too_late.cancel()
    viewer.end()
    said = complaints((options.out / "ffmpeg.log").read_text(errors="replace"))
    # One that it could do something about is none for the viewer.
    error = next(iter([*said["decode_errors"], *said["network_errors"]]), f"it ended with {code}") if code else ""
    if hung:
        error = f"the film was not over in time; {error}"
    elif not error and not viewer.complete:
        error = "ffmpeg ended before the film did"
    return {
        "workload": "video",
        "exit": code or int(bool(error)),
        "error": error,
        "started_ns": started_ns,
        "every_byte_right": not viewer.wrong,
        "connections": connections.end(),
        "video": {**viewer.counts, **{what: len(lines) for what, lines in said.items()}},
    }


def _whole(lines: Iterable[str]) -> Iterator[str]:
    """Without the last line of a program that was killed, of which there may be only a part."""
    return (line for line in lines if line.endswith("\n"))


def write(path: Path, playout: Sequence[tuple[int, int, int | None]]) -> None:
    import pyarrow as pa  # slow to import: after the work
    from pyarrow import parquet

    names = ["segment", "wanted_at_ns", "done_ns"]
    columns = zip(*playout, strict=True) if playout else ([], [], [])
    parquet.write_table(pa.table([pa.array(list(column), pa.int64()) for column in columns], names), path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="testbed.clients.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--frames", type=Path, required=True, help="of the film, as testbed.film has left them")
    parser.add_argument("--size", type=int, default=0, metavar="BYTES", help="of the film")
    parser.add_argument("--servers", type=servers, required=True, metavar="NAME=ADDRESS:PORT,…")
    parser.add_argument("--buffer", type=float, default=1.0, metavar="SECONDS", help="of film (1)")
    parser.add_argument("--start-at", type=float, default=0.0, metavar="SECONDS", help="(now)")
    parser.add_argument("--end-at", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    what = "of the options of ffmpeg's input, in order"
    parser.add_argument("--input", action="append", default=[], metavar="WORD", help=what)
    options = parser.parse_args(arguments)
    viewer = Viewer(frames_of(options.frames.read_text().splitlines()), options.buffer)
    print("ready", flush=True)
    time.sleep(max(0.0, options.start_at - time.monotonic()))
    report = watch(options, viewer)
    report["bytes"] = options.size if viewer.complete else 0
    write(options.out / "playout.parquet", viewer.playout)
    (options.out / "client.json").write_text(json.dumps(report, indent=2) + "\n")
    return int(bool(report["exit"]))


if __name__ == "__main__":
    sys.exit(main())
