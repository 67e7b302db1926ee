"""One headless Chromium for all tests here, and the pages that it looks at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from analysis import plan_report, report
from analysis.synthetic import many_moves
from analysis.synthetic_plans import write_plan

LINKS = {"rtt": [20.0]}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; without its sandbox, which root cannot have: the pages are our own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("there is no chromium: make test-pages installs it", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, chromium_sandbox=False, args=["--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of a plan, with a scenario of many settings, and of a run of handovers."""
    directory = tmp_path_factory.mktemp("results")
    scenarios = {"overload": LINKS, "congestion": {"rtt": [20.0, 40.0, 80.0]}, "dos": LINKS}
    plan = write_plan(directory / "experiment" / "20260101T000000-abcd", scenarios, 2)
    run = many_moves(12).write(directory / "handover", {"git": {"commit": "0123456789abcdef", "modified": False}})
    return {"plan": plan_report.write(plan), "handover": report.write(run).path}
