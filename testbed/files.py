"""Demo files for the file servers: the same bytes every time, incompressible, none like another."""

from __future__ import annotations

from pathlib import Path

_CHUNK = 1 << 24


def make_files(directory: Path, big: int = 500_000_000) -> Path:
    """Fill `directory` with `small` (1 kB), `medium` (1 MB) and `big` (of `big` bytes); return it."""
    import numpy as np  # slow to import, and most of the testbed does without

    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate({"small": 1_000, "medium": 1_000_000, "big": big}.items()):
        random = np.random.default_rng(seed)
        with (directory / name).open("wb") as file:
            for start in range(0, size, _CHUNK):
                file.write(random.bytes(min(_CHUNK, size - start)))
    return directory
