"""The wire formats for other tools: scapy layers, and a dissector for Wireshark (mtcp.lua). See docs/tools.md."""
