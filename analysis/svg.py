"""Pictures inside a page: SVG that takes the page's colours, so that one picture serves light and dark."""

from __future__ import annotations

import re

from analysis.palette import LIGHT

_VARIABLES = {getattr(LIGHT, name): f"var(--{name})" for name in ("ink", "muted", "line", "paper")}
"""What is drawn in a colour of LIGHT is shown in the page's own."""


def inline(drawn: bytes, name: str, alternative: str) -> str:
    """A figure as an element of a page, as wide as what it is in; `drawn`: as SVG in the theme LIGHT (palette.image).

    `name` is unique on the page; `alternative` says in words what is seen.
    """
    text = drawn.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, _, rest = text.partition(">")
    text = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Several pictures in one page: names that refer to something are made its own, others are dropped.
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{name}-", text)
    label = alternative.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
