"""The pool's servers, and `ctrl_mappings_info`: where each one's agent listens on the control network.

credentials = "pool.d"      # directory, from the pool file's; this is the default for a pool.toml

[[server]]
name = "s1"
service = "10.0.0.1"  # or several: ["10.0.0.1", "2001:db8::1"]
control = "10.1.0.1:7000"
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcp.address import Endpoint
from mtcp.errors import MtcpError

_NAME = re.compile(r"(?!ca$)[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*", re.IGNORECASE)
_LONGEST_NAME = 63
"""A server's name stands in its certificate, as a DNS name, and in its files' names (ca.pem is the CA's)."""


@dataclass(frozen=True)
class Server:
    """One `ctrl_ip_mapping`: {server_ip_address, control_ip_address}, and the server's name."""

    name: str
    service: str
    control: Endpoint
    more_services: tuple[str, ...] = ()
    """Its other service addresses: one of the other version of IP, as a rule."""

    @property
    def services(self) -> tuple[str, ...]:
        """All addresses that clients connect to."""
        return (self.service, *self.more_services)

    def place_of(self, local: Endpoint) -> Endpoint | None:
        """Where a connection would be that another server has at `local`: the same port, the same version of IP."""
        alike = (service for service in self.services if (":" in service) == (":" in local.ip))
        return next((Endpoint(service, local.port) for service in alike), None)


class Pool:
    """The servers between which connections may move."""

    def __init__(self, servers: list[Server], credentials: Path) -> None:
        """`credentials`: directory of the CA's certificate and the servers' (see mtcp.pki)."""
        self.credentials = credentials
        self.servers = {server.name: server for server in servers}
        self._by_service = {service: server for server in servers for service in server.services}

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Read the file; MtcpError says what is wrong with it."""
        try:
            table = tomllib.loads(path.read_text())
        except OSError as e:
            raise MtcpError(f"cannot read the pool file {path}: {e.strerror}") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
            raise MtcpError(f"pool file {path} is not TOML: {e}") from e
        entries = table.get("server", [])
        servers = [_server(path, entry) for entry in (entries if isinstance(entries, list) else [entries])]
        if not servers:
            raise MtcpError(f"pool file {path} names no [[server]]")
        services = [service for s in servers for service in s.services]
        if len({s.name.lower() for s in servers}) < len(servers) or len(set(services)) < len(services):
            raise MtcpError(f"pool file {path} names a server or an address twice")
        credentials = table.get("credentials", f"{path.stem}.d")
        if not isinstance(credentials, str) or not credentials:
            raise MtcpError(f"pool file {path}: credentials is the name of a directory")
        return cls(servers, path.parent / credentials)

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
        name = str(entry["name"])
        if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r} is not a letter and up to 62 letters, digits, - and _, or it is ca")
        listed = entry["service"] if isinstance(entry["service"], list) else [entry["service"]]
        service, *more = [str(ipaddress.ip_address(address)) for address in listed]
        return Server(name, service, Endpoint.parse(str(entry["control"])), tuple(more))
    except (KeyError, TypeError, ValueError) as e:
        raise MtcpError(
            f"pool file {path}: a [[server]] needs name, service (an address or several) and control: {e}"
        ) from e
