"""The directory of a test is its tier: unit, sim, root or e2e (see CONTRIBUTING.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import sandbox

TIERS = ("unit", "sim", "root", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, and skip what needs root when there is none."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        if tier in ("root", "e2e") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: run `make test`, or pytest with sudo"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `sandbox` in another pytest, inside a sandbox."""
    if pyfuncitem.get_closest_marker("sandbox") is None or sandbox.inside():
        return None
    again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", pyfuncitem.nodeid]
    command = [sys.executable, "-m", "testbed.cli", "run", *again]
    run = subprocess.run(command, cwd=pyfuncitem.config.rootpath, capture_output=True, text=True)
    if run.returncode != 0:
        pytest.fail(f"in the sandbox:\n{run.stdout}{run.stderr}", pytrace=False)
    return True
