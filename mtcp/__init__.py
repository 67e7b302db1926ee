"""Migratory TCP: the server end of a live TCP connection moves, and the client does not notice."""
