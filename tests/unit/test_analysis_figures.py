"""Figures of plans can be read: nothing covers anything else, and nothing is cut off."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import palette, plan_figures
from analysis.plan_pictures import View, of_scenario
from analysis.plans import Plan
from analysis.synthetic_plans import write_plan

pytestmark = pytest.mark.unit

KIB = 1024


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """A sweep over powers of two whose factor has a long name, and a scenario with one setting."""
    directory: Path = tmp_path_factory.mktemp("figures") / "plan"
    sizes = {"bytes that a server sends on a connection before it is left": [64 * KIB << i for i in range(8)]}
    return View(Plan.load(write_plan(directory, {"every-send": sizes, "overload": {"rtt": [20.0]}}, 3)))


def drawn(view: View, scenario: str, ending: str, shape: palette.Shape) -> tuple[Figure, Any]:
    """The figure of the scenario whose name ends so, and what can measure its texts."""
    [picture] = [each for each in of_scenario(view, scenario) if each.name.endswith(ending)]
    figure = picture.draw(palette.LIGHT, shape)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, canvas.get_renderer()


@pytest.mark.parametrize("shape", palette.SHAPES)
def test_labels_of_an_axis_have_room(view: View, shape: palette.Shape) -> None:
    figure, renderer = drawn(view, "every-send", "is left", shape)
    axes = figure.axes[0]
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    assert labels[-1].get_text() == "8\u202fMi" and len(labels) >= 4
    for one, other in combinations([Text.get_window_extent(label, renderer) for label in labels], 2):
        assert not one.overlaps(other)
    name = Text.get_window_extent(axes.xaxis.label, renderer)
    assert name.x0 >= 0 and name.x1 <= figure.bbox.x1


@pytest.mark.parametrize("shape", palette.SHAPES)
def test_a_single_setting_has_a_bar_for_each_phase(view: View, shape: palette.Shape) -> None:
    figure, _ = drawn(view, "overload", "-phases", shape)
    bars: list[Any] = list(figure.axes[0].patches)
    assert [bar.get_width() for bar in bars] == pytest.approx([8, 1, 1])
    assert all(before.get_x() + before.get_width() == pytest.approx(after.get_x()) for before, after in pairwise(bars))


@pytest.mark.parametrize("shape", palette.SHAPES)
def test_moves_at_the_same_time_are_all_seen(view: View, shape: palette.Shape) -> None:
    loaded = view.loaded.copy()
    loaded.loc[loaded["metric"] == "move_stall_ms", "time"] = 1.0
    figure = plan_figures.goodput(loaded, [("", loaded["scenario"] == "overload")], shape=shape)
    signs = [line for line in figure.axes[0].lines if line.get_marker() == "v"]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in signs]
    assert len(heights) == len(set(heights)) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (512, "512"),
        (1000, "1\u202fk"),
        (1024, "1\u202fKi"),
        (1536, "1.536\u202fk"),
        (2_500_000, "2.5\u202fM"),
        (8 << 20, "8\u202fMi"),
    ],
)
def test_sizes_are_short(value: float, text: str) -> None:
    assert plan_figures._short(value) == text


def test_labels_are_thinned_from_the_last() -> None:
    labels = ["one", "two", "three", "four"]
    assert plan_figures._thinned(labels, 40) == labels
    assert plan_figures._thinned(labels, 14) == ["", "two", "", "four"]
    assert plan_figures._thinned(labels, 6) == ["", "", "", "four"]
