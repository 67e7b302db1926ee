"""Which kernel `make test-vm` takes, and what it leaves when there is none. apt is made up here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.vm import packages

KNOWN = """
linux-image-6.1.0-56-amd64 linux-image-6.1.0-9-amd64 linux-image-6.12.99+deb12-amd64 linux-image-6.12.117+deb12-amd64
linux-image-6.12-amd64 linux-image-6.13.2+deb12-rt-amd64 linux-image-6.13.2+deb12-cloud-amd64
linux-image-6.13.2+deb12-amd64-unsigned linux-image-amd64 linux-image-amd64-signed-template
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def says(monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """Let apt know these packages, and have none of them."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "pkgnames" in command:
            return subprocess.CompletedProcess(command, 0, known, "")
        return subprocess.CompletedProcess(command, 100, "", "E: no route to anywhere\n")

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(packages.shutil, "which", lambda name, path: f"/usr/bin/{name}")


def test_the_newest_plain_kernel_is_taken_and_what_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    says(monkeypatch, KNOWN)
    with pytest.raises(packages.VmError, match=r"download linux-image-6\.12\.117\+deb12-amd64: E: no route"):
        packages.kernel(None)
    with pytest.raises(packages.VmError, match="no route"):
        packages.open_vswitch()
    assert list(cache.iterdir()) == []


def test_without_a_kernel_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "linux-image-generic linux-image-6.8.0-31-generic")
    with pytest.raises(packages.VmError, match="this needs Debian on x86_64"):
        packages.kernel(None)


def test_without_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name, path: None)
    with pytest.raises(packages.VmError, match="apt-cache is missing"):
        packages.kernel(None)
