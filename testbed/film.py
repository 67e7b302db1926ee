"""A film to be shown by a server: made by ffmpeg from nothing, the same every time, and what each of its frames is.

H.264 and AAC in an MPEG transport stream of a constant rate. The pictures are moving test patterns with noise, for else
they would take no rate; the sound is a tone with beeps. It is decoded once when it is made: whoever decodes it later
can be held against that, frame by frame. A second of it takes some tens of milliseconds of CPU time to make.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from testbed.errors import TestbedError
from testbed.results import give_to_invoker

SIZE, PICTURES_PER_S, SAMPLES_PER_S = "320x180", 25, 48_000
SOUND = 0.128
"""Mbit/s."""
OVERHEAD = 1.1
"""Of the transport stream: its rate, of those of sound and pictures."""
LEAST_RATE = 0.5
"""Mbit/s: with less the pictures are worse than what they are made of allows, and the rate is not kept."""
LOGGED = ("-hide_banner", "-nostdin", "-loglevel", "level+warning")


class Frame(NamedTuple):
    """A picture, or some samples of sound, as decoded."""

    stream: int
    """0: pictures, 1: sound."""
    at: float
    """Seconds from the beginning of the film."""
    content: str
    """A hash, and the size."""


@dataclass(frozen=True)
class Film:
    """A film on disk."""

    path: Path
    frames: Path
    """What ffmpeg printed when it decoded it: `frames_of` reads it."""
    sha256: str
    """Of the file at `path`."""


def film(directory: Path, seconds: float, rate: float, seed: int = 1) -> Film:
    """The film of that length, rate (Mbit/s) and seed in `directory`, made there if need be.

    TestbedError where there is no ffmpeg, or it cannot do this.
    """
    if rate < LEAST_RATE:
        raise TestbedError(f"a film of {rate:g} Mbit/s cannot be made: at least {LEAST_RATE:g}")
    name = f"film-{seconds:g}s-{rate:g}mbit-{seed}"
    path, frames = directory / f"{name}.ts", directory / f"{name}.frames"
    if not frames.exists():
        directory.mkdir(parents=True, exist_ok=True)
        # Others may make it at the same time: each its own, and the last one's stays, which is the same.
        with tempfile.TemporaryDirectory(dir=directory, prefix=f".{name}-") as own:
            made, decoded = Path(own, path.name), Path(own, frames.name)
            _run(_making(made, seconds, rate, seed))
            decoded.write_text(_run(decoding(str(made))))
            made.replace(path)
            decoded.replace(frames)
        give_to_invoker(directory, path, frames)
    with path.open("rb") as file:
        return Film(path, frames, hashlib.file_digest(file, "sha256").hexdigest())


def decoding(source: str, *options: str) -> list[str]:
    """ffmpeg's command to decode `source`, which is a file or a URL, with these options of its input.

    It prints a line for each frame, at once (`frames_of`), and ends at the first error that it finds in the film.
    """
    return [
        "ffmpeg", *LOGGED, "-xerror", "-err_detect", "explode", *options, "-i", source,
        *("-map", "0:v", "-map", "0:a", "-c:v", "rawvideo", "-c:a", "pcm_s16le", "-fps_mode", "passthrough"),
        *("-flush_packets", "1", "-f", "framehash", "-hash", "md5", "-"),
    ]  # fmt: skip


def frames_of(lines: Iterable[str]) -> Iterator[Frame]:
    """The frames, as ffmpeg prints them; each as soon as its line is there. TestbedError for a line that is none."""
    bases: dict[int, float] = {}
    for line in lines:
        try:
            if line.startswith("#tb "):
                stream, base = line.removeprefix("#tb ").split(":")
                over, under = map(int, base.split("/"))
                bases[int(stream)] = over / under
            elif not line.startswith("#"):
                number, _, pts, _, size, content = (word.strip() for word in line.split(","))
                yield Frame(int(number), round(int(pts) * bases[int(number)], 6), f"{content} {size}")
        except (ValueError, KeyError):
            raise TestbedError(f"ffmpeg prints what is no frame: {line.strip()}") from None


def _making(path: Path, seconds: float, rate: float, seed: int) -> list[str]:
    kbit = round((rate / OVERHEAD - SOUND) * 1000)
    pictures = f"testsrc2=size={SIZE}:rate={PICTURES_PER_S},noise=alls=30:allf=t:all_seed={seed}"
    sound = f"sine=frequency=440:beep_factor=4:sample_rate={SAMPLES_PER_S}"
    bits = (f"{kbit}k", "-minrate", f"{kbit}k", "-maxrate", f"{kbit}k", "-bufsize", f"{kbit // 2}k")
    return [
        "ffmpeg", *LOGGED, "-y", "-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound, "-t", f"{seconds:g}",
        # One thread: with more, what comes out depends on how many processors there are.
        *("-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", "-g", str(2 * PICTURES_PER_S), "-b:v", *bits),
        *("-x264-params", "nal-hrd=cbr", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", f"{SOUND * 1000:g}k"),
        *("-fflags", "+bitexact", "-flags", "+bitexact", "-map_metadata", "-1"),
        *("-muxrate", f"{round(rate * 1000)}k", "-f", "mpegts", str(path)),
    ]  # fmt: skip


def _run(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise TestbedError("ffmpeg is not installed: apt-get install ffmpeg")
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or run.stderr.strip():
        said = (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[0]
        raise TestbedError(f"ffmpeg cannot make the film: {said}")
    return run.stdout
