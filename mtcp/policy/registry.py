"""Policies by name, with parameters from the command line or a file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import getdoc, signature
from math import isnan
from pathlib import Path

from mtcp.errors import MtcpError
from mtcp.policy.base import Policy
from mtcp.policy.every import Every
from mtcp.policy.hints import Hints
from mtcp.policy.manual import Manual
from mtcp.policy.oracle import Oracle
from mtcp.policy.throughput import Throughput

DEFAULT = "hints"
_CLASSES: dict[str, Callable[..., Policy]] = {
    "hints": Hints,
    "manual": Manual,
    "throughput": Throughput,
    "oracle": Oracle,
    "every": Every,
}
NAMES = tuple(_CLASSES)
SUMMARIES = {name: (getdoc(kind) or "").partition("\n")[0] for name, kind in _CLASSES.items()}
"""A line for each."""
Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Spec:
    """A policy and its parameters; called, it makes one. As text: what `make` understands."""

    name: str
    parameters: Parameters

    def __call__(self) -> Policy:
        """ValueError when a parameter makes no sense."""
        return _CLASSES[self.name](**self.parameters)

    def __str__(self) -> str:
        listed = ",".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.name}:{listed}" if listed else self.name


def make(text: str, file: Mapping[str, Parameters] | None = None) -> Spec:
    """What makes a policy for each connection, from NAME or NAME:parameter=number,…; MtcpError says what is wrong.

    `file`: parameters by policy, for those that `text` does not name (see `load`).
    """
    name, _, listed = text.partition(":")
    if name not in _CLASSES:
        raise MtcpError(f"no policy {name!r}; there are {', '.join(NAMES)}")
    try:
        given = {key: float(value) for key, _, value in (p.partition("=") for p in listed.split(",") if p)}
        spec = Spec(name, {**(file or {}).get(name, {}), **given})
        _check(spec)
        spec()
    except ValueError as error:
        raise MtcpError(f"policy {text!r}: {error}") from error
    return spec


def load(path: Path) -> dict[str, Parameters]:
    """The parameters in a TOML file, a table per policy; MtcpError says what is wrong with it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MtcpError(f"cannot read the policy file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MtcpError(f"policy file {path}: {error}") from error
    for name, table in tables.items():
        if name not in _CLASSES:
            raise MtcpError(f"policy file {path}: no policy {name!r}; there are {', '.join(NAMES)}")
        if not isinstance(table, dict) or not all(type(value) in (int, float) for value in table.values()):
            raise MtcpError(f"policy file {path}: [{name}] is to be a table of parameter = number")
    return tables


def _check(spec: Spec) -> None:
    """ValueError when a parameter is not known, or one lacks that has no default."""
    known = signature(_CLASSES[spec.name]).parameters
    if unknown := spec.parameters.keys() - known:
        raise ValueError(f"no parameter {min(unknown)!r}; there are {', '.join(known) or 'none'}")
    if lacking := [name for name, p in known.items() if p.default is p.empty and name not in spec.parameters]:
        raise ValueError(f"{lacking[0]}=NUMBER lacks")
    if undefined := [name for name, value in spec.parameters.items() if isnan(value)]:
        raise ValueError(f"{undefined[0]} is no number")
