"""Policies by name, with parameters from the command line or a file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import getdoc, signature
from math import isnan
from pathlib import Path
from typing import Generic, TypeVar

from mtcp.errors import MtcpError
from mtcp.policy.attack import Attack
from mtcp.policy.base import Policy
from mtcp.policy.best import Best
from mtcp.policy.every import Every
from mtcp.policy.hints import Hints
from mtcp.policy.latency import Latency
from mtcp.policy.load import Load
from mtcp.policy.loss import Loss
from mtcp.policy.manual import Manual
from mtcp.policy.oracle import Oracle
from mtcp.policy.serving import ServerPolicy
from mtcp.policy.stall import Stall
from mtcp.policy.throughput import Throughput

DEFAULT = "hints"
_CLIENTS: dict[str, Callable[..., Policy]] = {
    "hints": Hints,
    "manual": Manual,
    "throughput": Throughput,
    "stall": Stall,
    "latency": Latency,
    "loss": Loss,
    "best": Best,
    "oracle": Oracle,
    "every": Every,
}
_SERVERS: dict[str, Callable[..., ServerPolicy]] = {"load": Load, "attack": Attack}
NAMES, SERVER_NAMES = tuple(_CLIENTS), tuple(_SERVERS)
SUMMARIES = {name: (getdoc(kind) or "").partition("\n")[0] for name, kind in {**_CLIENTS, **_SERVERS}.items()}
"""A line for each of the clients'."""
Parameters = Mapping[str, float]
P = TypeVar("P")


@dataclass(frozen=True)
class Spec(Generic[P]):
    """A policy and its parameters; called, it makes one. As text: what `make` understands."""

    name: str
    parameters: Parameters
    kind: Callable[..., P]

    def __call__(self) -> P:
        """ValueError when a parameter makes no sense."""
        return self.kind(**self.parameters)

    def __str__(self) -> str:
        listed = ",".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.name}:{listed}" if listed else self.name

    def check(self) -> None:
        """ValueError when a parameter is not known, is not a number, or lacks."""
        known = signature(self.kind).parameters
        if unknown := self.parameters.keys() - known:
            raise ValueError(f"no parameter {min(unknown)!r}; there are {', '.join(known) or 'none'}")
        if lacking := [name for name, p in known.items() if p.default is p.empty and name not in self.parameters]:
            raise ValueError(f"{lacking[0]}=NUMBER lacks")
        if undefined := [name for name, value in self.parameters.items() if isnan(value)]:
            raise ValueError(f"{undefined[0]} is no number")
        self()


def make(text: str, file: Mapping[str, Parameters] | None = None) -> Spec[Policy]:
    """What makes a client's policy for each connection, from NAME or NAME:parameter=number,…

    `file`: parameters by policy, for those that `text` does not name (see `load`). MtcpError says what is wrong.
    """
    return _make(_CLIENTS, "policy", text, file)


def make_server(text: str, file: Mapping[str, Parameters] | None = None) -> Spec[ServerPolicy]:
    """The same for a server's policy."""
    return _make(_SERVERS, "server policy", text, file)


def _make(
    classes: Mapping[str, Callable[..., P]], what: str, text: str, file: Mapping[str, Parameters] | None
) -> Spec[P]:
    name, _, listed = text.partition(":")
    if name not in classes:
        raise MtcpError(f"no {what} {name!r}; there are {', '.join(classes)}")
    try:
        given = {key: float(value) for key, _, value in (p.partition("=") for p in listed.split(",") if p)}
        spec = Spec(name, {**(file or {}).get(name, {}), **given}, classes[name])
        spec.check()
    except ValueError as error:
        raise MtcpError(f"{what} {text!r}: {error}") from error
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
        if name not in NAMES + SERVER_NAMES:
            raise MtcpError(f"policy file {path}: no policy {name!r}; there are {', '.join(NAMES + SERVER_NAMES)}")
        if not isinstance(table, dict) or not all(type(value) in (int, float) for value in table.values()):
            raise MtcpError(f"policy file {path}: [{name}] is to be a table of parameter = number")
    return tables
