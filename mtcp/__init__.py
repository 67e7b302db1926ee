"""Migratory TCP: the server end of a live TCP connection moves, and the client does not notice."""

from mtcp.api import Connection, Imported
from mtcp.errors import ConnectionMigrated, MtcpError
from mtcp.listening import Listener, listen

__version__ = "0.1.0"
__all__ = ["Connection", "ConnectionMigrated", "Imported", "Listener", "MtcpError", "listen"]
