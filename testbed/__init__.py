"""The harness: sandboxes, Mininet hosts, switches and links, captures, results, the programs on the hosts."""
