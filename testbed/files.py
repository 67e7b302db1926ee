"""Demo files for the file servers: the same bytes every time, incompressible, none like another."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

_CHUNK = 1 << 24


def make_files(directory: Path, big: int = 500_000_000) -> Path:
    """Fill `directory` with `small` (1 kB), `medium` (1 MB) and `big` (of `big` bytes); return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate({"small": 1_000, "medium": 1_000_000, "big": big}.items()):
        stream = Cipher(AES(bytes(16)), CTR(seed.to_bytes(16))).encryptor()
        with (directory / name).open("wb") as file:
            for start in range(0, size, _CHUNK):
                file.write(stream.update(bytes(min(_CHUNK, size - start))))
    return directory
