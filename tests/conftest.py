"""The directory of a test is its tier: unit, sim, root or e2e (see CONTRIBUTING.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
