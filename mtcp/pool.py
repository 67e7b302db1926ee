"""The pool's servers, and `ctrl_mappings_info`: where each one's agent listens on the control network.

[[server]]
name = "s1"
service = "10.0.0.1"
control = "10.1.0.1:7000"
"""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcp.address import Endpoint
from mtcp.errors import MtcpError


@dataclass(frozen=True)
class Server:
    """One `ctrl_ip_mapping`: {server_ip_address, control_ip_address}, and the server's name."""

    name: str
    service: str
    control: Endpoint


class Pool:
    """The servers between which connections may move."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = {server.name: server for server in servers}
        self._by_service = {server.service: server for server in servers}

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Read the file; MtcpError says what is wrong with it."""
        try:
            table = tomllib.loads(path.read_text())
        except OSError as e:
            raise MtcpError(f"cannot read the pool file {path}: {e.strerror}") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise MtcpError(f"pool file {path} is not TOML: {e}") from e
        entries = table.get("server", [])
        servers = [_server(path, entry) for entry in (entries if isinstance(entries, list) else [entries])]
        if not servers:
            raise MtcpError(f"pool file {path} names no [[server]]")
        if len({s.name for s in servers}) < len(servers) or len({s.service for s in servers}) < len(servers):
            raise MtcpError(f"pool file {path} names a server or an address twice")
        return cls(servers)

    def named(self, name: str) -> Server:
        """MtcpError when the pool has no such server."""
        try:
            return self.servers[name]
        except KeyError:
            raise MtcpError(f"the pool has no server {name!r}; it has {', '.join(self.servers)}") from None

    def by_service(self, ip: str) -> Server | None:
        return self._by_service.get(ip)

    def others(self, name: str) -> list[Server]:
        return [server for server in self.servers.values() if server.name != name]


def _server(path: Path, entry: dict[str, Any]) -> Server:
    try:
        service = str(ipaddress.ip_address(entry["service"]))
        return Server(str(entry["name"]), service, Endpoint.parse(str(entry["control"])))
    except (KeyError, TypeError, ValueError) as e:
        raise MtcpError(f"pool file {path}: a [[server]] needs name, service (an address) and control: {e}") from e
