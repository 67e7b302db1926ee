"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable

from mtcp.errors import MtcpError
from mtcp.policy.base import Policy
from mtcp.policy.hints import Hints
from mtcp.policy.manual import Manual
from mtcp.policy.throughput import Throughput

DEFAULT = "hints"
_CLASSES: dict[str, Callable[..., Policy]] = {"hints": Hints, "manual": Manual, "throughput": Throughput}
NAMES = tuple(_CLASSES)


def make(text: str) -> Callable[[], Policy]:
    """What makes a policy for each connection, from NAME or NAME:parameter=number,…; MtcpError says what is wrong."""
    name, _, listed = text.partition(":")
    if name not in _CLASSES:
        raise MtcpError(f"no policy {name!r}; there are {', '.join(NAMES)}")
    try:
        parameters = {key: float(value) for key, _, value in (p.partition("=") for p in listed.split(",") if p)}
        _CLASSES[name](**parameters)
    except (TypeError, ValueError) as error:
        raise MtcpError(f"policy {text!r}: {error}") from error
    return lambda: _CLASSES[name](**parameters)
