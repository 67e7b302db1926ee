"""The agent: one process per host that drives the protocol core over real sockets."""
