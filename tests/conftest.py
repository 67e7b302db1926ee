"""The directory of a test is its tier: unit, sim, pages, root, e2e or vm (see CONTRIBUTING.md)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, settings

from testbed import sandbox

# How long an example takes says how busy the machine is.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
TIERS = ("unit", "sim", "pages", "root", "e2e", "vm")


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run each test that is marked `sandbox` N times; it passes if it does every time"
    parser.addoption("--repeat", type=int, default=1, metavar="N", help=text)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, and skip what needs root when there is none."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        if tier in ("root", "e2e") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: run `make test`, or pytest with sudo"))
        if tier == "vm" and "MTCP_VM" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs a kernel with netem and Open vSwitch: run `make test-vm`"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `sandbox` in another pytest, inside a sandbox.

    Those marked `sandbox(shared=True)` share one with the others of their module: the first runs them all.
    """
    marker = pyfuncitem.get_closest_marker("sandbox")
    if marker is None or sandbox.inside():
        return None
    items: list[pytest.Item] = [pyfuncitem]
    if marker.kwargs.get("shared"):
        items = [item for item in pyfuncitem.session.items if _shares_sandbox(item, pyfuncitem)]
    if pyfuncitem.nodeid not in pyfuncitem.config.stash.setdefault(_FAULTS, {}):
        pyfuncitem.config.stash[_FAULTS] |= _repeated(items, pyfuncitem.config.getoption("repeat"))
    fault = pyfuncitem.config.stash[_FAULTS].pop(pyfuncitem.nodeid)
    if fault:
        pytest.fail(f"in the sandbox:\n{fault}", pytrace=False)
    return True


_FAULTS = pytest.StashKey[dict[str, str]]()


def _shares_sandbox(item: pytest.Item, other: pytest.Function) -> bool:
    marker = item.get_closest_marker("sandbox")
    return item.path == other.path and marker is not None and bool(marker.kwargs.get("shared"))


def _repeated(items: list[pytest.Item], times: int) -> dict[str, str]:
    """As `_faults`, of so many runs."""
    runs = [_faults(items) for _ in range(times)]
    result = {}
    for item in items:
        faults = [run[item.nodeid] for run in runs if run[item.nodeid]]
        count = f"{len(faults)} of {times} times; the first:\n" if times > 1 else ""
        result[item.nodeid] = f"{count}{faults[0]}" if faults else ""
    return result


def _faults(items: list[pytest.Item]) -> dict[str, str]:
    """Run `items`, of one module, in a sandbox; by node id, what went wrong, or ""."""
    with tempfile.TemporaryDirectory(prefix="mtcp-test-") as directory:
        report = Path(directory, "report.xml")
        again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
        command = [sys.executable, "-m", "testbed.cli", "run", *again, *(item.nodeid for item in items)]
        run = subprocess.run(command, cwd=items[0].config.rootpath, capture_output=True, text=True)
        if not report.exists():
            return {item.nodeid: f"{run.stdout}{run.stderr}" for item in items}
        cases = {case.get("name"): case for case in ElementTree.parse(report).iter("testcase")}
    return {item.nodeid: _fault(cases.get(item.name)) for item in items}


def _fault(case: ElementTree.Element | None) -> str:
    if case is None:
        return "it was not run"
    return "\n".join(child.text or child.get("message") or "" for child in case if child.tag in ("failure", "error"))
