"""Migratory TCP: the server end of a live TCP connection moves, and the client does not notice."""

from mtcp.api import Connection, Imported, Listener, listen
from mtcp.errors import ConnectionMigrated, MtcpError

__version__ = "0.1.0"
__all__ = ["Connection", "ConnectionMigrated", "Imported", "Listener", "MtcpError", "listen"]
