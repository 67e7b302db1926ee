"""Colours and styles of all figures, and how figures become files.

A server has the same colour everywhere, and so has a mechanism: colour-blind safe, legible on light and dark pages.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Shape = Literal["wide", "narrow"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
Kind = Literal["png", "svg", "pdf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""As what figures are written: to look at, to edit, to print."""


@dataclass(frozen=True)
class Theme:
    """The colours that depend on the page: text, secondary text, hairlines, the page itself."""

    ink: str
    muted: str
    line: str
    paper: str


LIGHT = Theme("#1b1f24", "#5b6570", "#d9dee3", "#ffffff")
DARK = Theme("#e8ebee", "#9aa5b1", "#3a424b", "#14181c")

ACCENT = "#7b6fb0"
"""What belongs to no server and no mechanism."""

_COLOURS: list[str] = sns.color_palette("colorblind").as_hex()
_SERVERS = tuple(_COLOURS[i] for i in (0, 1, 3, 8, 6))
_MECHANISMS: dict[str, str] = {"mtcp": _COLOURS[2], "tcp": _COLOURS[7], "reconnect": _COLOURS[4], "mptcp": _COLOURS[5],
               "quic": _COLOURS[9]}  # fmt: skip
_MARKERS = {"mtcp": "o", "tcp": "s", "reconnect": "^", "mptcp": "D", "quic": "v"}
_TITLES = {"mtcp": "M-TCP", "tcp": "TCP", "reconnect": "reconnect", "mptcp": "MPTCP", "quic": "QUIC"}


def server_colours(servers: Iterable[str]) -> dict[str, str]:
    """The colour of each server, by its place in the order of run.json."""
    return {name: _SERVERS[i % len(_SERVERS)] for i, name in enumerate(servers)}


def mechanism_colour(name: str) -> str:
    return _MECHANISMS.get(name, ACCENT)


def mechanism_marker(name: str) -> str:
    """Matplotlib's name of the sign that stands for it: colours are not all."""
    return _MARKERS.get(name, "P")


def mechanism_title(name: str) -> str:
    """What it is called where people read it."""
    return _TITLES.get(name, name)


def style(theme: Theme) -> Any:
    """Matplotlib parameters: little ink, in the theme's colours."""
    return {
        "font.size": 9.5, "axes.titlesize": 10, "axes.labelsize": 9.5, "svg.fonttype": "path",
        "text.color": theme.ink, "axes.labelcolor": theme.muted, "axes.titlecolor": theme.ink,
        "xtick.color": theme.muted, "ytick.color": theme.muted, "axes.edgecolor": theme.line,
        "axes.facecolor": "none", "figure.facecolor": "none", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "axes.grid": True, "axes.grid.axis": "y", "grid.color": theme.line, "grid.linewidth": 0.6,
        "axes.axisbelow": True, "figure.constrained_layout.hspace": 0.08,
        "xtick.major.size": 3, "ytick.major.size": 0,
    }  # fmt: skip


def heading(axes: Axes, text: str, points: float = 6) -> None:
    """What a panel shows, so many points above it."""
    axes.set_title(text, pad=points)


def entitle(figure: Figure, text: str) -> None:
    """What the figure shows, above all of it, if it needs saying: not on a page, where it has a caption."""
    if text:
        figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold")


def image(figure: Figure, kind: Kind, paper: str | None = None) -> bytes:
    """The figure as a file's bytes, on `paper` or transparent; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    # 42: fonts inside PDF as they are, which publishers ask for.
    with mpl.rc_context({"svg.hashsalt": "analysis", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, facecolor=paper or "none", edgecolor="none")
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure, in the theme LIGHT, to `path` with the suffix of each of KINDS."""
    for kind in KINDS:
        path.with_name(f"{path.name}.{kind}").write_bytes(image(figure, kind, LIGHT.paper))
