"""The film of the scenario `video`: the same whenever it is made, and what a viewer of it is told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from testbed.clients import video
from testbed.clients.video import SEGMENT, Viewer
from testbed.errors import TestbedError
from testbed.film import PICTURES_PER_S, Film, Frame, film, frames_of

RATE, SECONDS = 1.0, 2.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Film:
    return film(tmp_path_factory.mktemp("films"), SECONDS, RATE)


def test_it_is_the_same_every_time_and_another_with_another_seed(made: Film, tmp_path: Path) -> None:
    again, other = (film(tmp_path, SECONDS, RATE, seed) for seed in (1, 2))
    assert again.path.read_bytes() == made.path.read_bytes() != other.path.read_bytes()
    assert again.frames.read_text() == made.frames.read_text() != other.frames.read_text()
    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert [each.name for each in sorted(tmp_path.iterdir()) if each.name.startswith(".")] == []


def test_it_has_its_length_and_rate(made: Film) -> None:
    frames = [*frames_of(made.frames.read_text().splitlines())]
    pictures = [frame for frame in frames if frame.stream == 0]
    assert len(pictures) == SECONDS * PICTURES_PER_S
    assert len({frame.content for frame in pictures}) == len(pictures), "the pictures are not all different"
    assert any(frame.stream == 1 for frame in frames)
    assert made.path.stat().st_size * 8 / 1e6 == pytest.approx(SECONDS * RATE, rel=0.2)


def test_it_is_made_once(made: Film) -> None:
    before = made.path.stat().st_mtime_ns
    assert film(made.path.parent, SECONDS, RATE) == made
    assert made.path.stat().st_mtime_ns == before


def test_what_is_no_frame_is_told() -> None:
    with pytest.raises(TestbedError, match="no frame: what is that"):
        [*frames_of(["what is that"])]
    with pytest.raises(TestbedError, match="at least"):
        film(Path("/nowhere"), 1.0, 0.1)


# -- the viewer

PICTURES = [Frame(0, round(number / PICTURES_PER_S, 6), f"picture {number}") for number in range(100)]
"""Four seconds."""


def seen(*halts: tuple[float, float], upto: int = 100, buffer: float = 1.0) -> list[tuple[float, float | None]]:
    """(wanted, done) of each segment, s after the first picture; `halts`: (place in the film, seconds) of ffmpeg."""
    viewer = Viewer(PICTURES, buffer)
    for frame in PICTURES[:upto]:
        viewer.on_frame(frame, 10 + frame.at + sum(seconds for at, seconds in halts if frame.at >= at))
    viewer.end()
    return [(wanted / 1e9 - 10, done and done / 1e9 - 10) for _, wanted, done in viewer.playout]


def rebuffering(playout: list[tuple[float, float | None]]) -> float:
    return sum(max(0.0, done - wanted) for wanted, done in playout if done is not None)


def test_a_film_that_never_halts() -> None:
    playout = seen()
    assert len(playout) == 4 / SEGMENT
    assert [wanted for wanted, _ in playout] == pytest.approx([1.0 + number * SEGMENT for number in range(8)])
    assert rebuffering(playout) == 0


def test_a_halt_that_the_buffer_covers_is_not_seen() -> None:
    assert rebuffering(seen((2.0, 0.5))) == 0


def test_a_halt_is_seen_once_and_all_that_follows_is_later() -> None:
    playout = seen((2.0, 1.5))
    # A segment is done when its last picture is: that much of the buffer there is not.
    late, picture = 1.5 - (1.0 - SEGMENT), 1 / PICTURES_PER_S
    assert rebuffering(playout) == pytest.approx(late, abs=picture)
    assert sum(done is not None and done > wanted for wanted, done in playout) == 1
    assert playout[-1][0] == pytest.approx(1.0 + 7 * SEGMENT + late, abs=picture)
    assert rebuffering(seen((1.0, 1.5), (3.0, 1.0))) == pytest.approx(late + 1.0, abs=2 * picture)


def test_the_rest_of_a_film_that_ends_early_is_wanted_and_not_done() -> None:
    playout = seen(upto=60)
    assert [done is None for _, done in playout] == [False] * 4 + [True]
    assert playout[-1][0] == pytest.approx(1.0 + 4 * SEGMENT)


def test_other_pictures_are_wrong() -> None:
    viewer = Viewer(PICTURES, 1.0)
    for frame in (PICTURES[0], PICTURES[1]._replace(content="other"), PICTURES[2]._replace(at=77.0), PICTURES[0]):
        viewer.on_frame(frame, 1.0)
    assert viewer.counts == {"frames": 100, "frames_right": 1, "frames_wrong": 3}


def test_complaints() -> None:
    log = """[http @ 0x1] [error] Stream ends prematurely at 3, should be 4
[tcp @ 0x3] [error] Connection to tcp://10.0.1.1:80 failed: Connection refused
[error] http://10.0.1.1:80/film.ts: Input/output error
[h264 @ 0x2] [warning] hm
[h264 @ 0x2] [error] error while decoding MB 12 8
[info] fine
[fatal] http://10.0.1.1:80/film.ts: corrupt input packet in stream 0
"""
    found = {what: len(lines) for what, lines in video.complaints(log).items()}
    assert found == {"decode_errors": 2, "network_errors": 3, "warnings": 1}


# -- with ffmpeg


class Server(SimpleHTTPRequestHandler):
    """Sends the first `limit` bytes of a file, with those at `broken` wrong, and closes."""

    limit, broken = 1 << 30, -1

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = bytearray(source.read())
        if self.broken >= 0:
            data[self.broken : self.broken + 3000] = bytes(3000)
        outputfile.write(data[: self.limit])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def url(made: Film) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(made.path.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{made.path.name}"
        server.shutdown()


def watch(url: str, made: Film, out: Path, seconds: float = 60.0) -> dict[str, Any]:
    at = url.split("/")[2]
    options = ["--frames", str(made.frames), "--size", str(made.path.stat().st_size), "--servers", f"s1={at}"]
    options += ["--end-at", f"{time.monotonic() + seconds}", "--out", str(out)]
    code = video.main([url, *options])
    report: dict[str, Any] = json.loads((out / "client.json").read_text())
    assert (code != 0) == (report["exit"] != 0)
    assert (out / "playout.parquet").exists()
    return report


def test_a_film_seen_to_its_end(url: str, made: Film, tmp_path: Path) -> None:
    report = watch(url, made, tmp_path)
    assert (report["exit"], report["error"], report["bytes"]) == (0, "", made.path.stat().st_size)
    assert report["every_byte_right"] and report["video"]["frames_right"] == report["video"]["frames"] > 0
    assert [report["video"][what] for what in ("decode_errors", "network_errors", "warnings")] == [0, 0, 0]
    assert [each["server"] for each in report["connections"]] == ["s1"]


def test_a_film_that_breaks_off(url: str, made: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "limit", made.path.stat().st_size // 2)
    report = watch(url, made, tmp_path)
    assert report["exit"] and report["error"] and report["video"]["network_errors"] > 0
    assert 0 < report["video"]["frames_right"] < report["video"]["frames"]
    assert report["bytes"] == 0


def test_wrong_bytes_are_an_error(url: str, made: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "broken", made.path.stat().st_size // 2)
    report = watch(url, made, tmp_path)
    assert report["exit"] and report["error"]
    assert report["video"]["frames_right"] < report["video"]["frames"]


def test_a_film_that_does_not_end_is_ended(url: str, made: Film, tmp_path: Path) -> None:
    report = watch(url, made, tmp_path, seconds=1.0)
    assert "not over in time" in report["error"] and report["exit"]
