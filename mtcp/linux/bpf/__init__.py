"""BPF programs of the client mapping and of the set-up option, and what loads them."""
