"""The three roles of a move, sans I/O: no sockets, no clock.

A role is told what happened and what time it is; it looks the pair up in `mtcp.states` and carries the actions out
through a port, an object that the driver (an agent, or the simulator) supplies.
"""
