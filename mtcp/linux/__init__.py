"""The Linux engine: kernel TCP through TCP_REPAIR, BPF and raw segments."""
