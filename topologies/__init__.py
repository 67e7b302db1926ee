"""Networks to experiment in: each module is also a script that gives Mininet's prompt in its network."""
