"""Attacks on hosts of the testbed, and on nothing else (testbed.generators has the bounds and the guard).

frames.py    batches of TCP segments that differ in some fields, from a template of scapy's
sender.py    sends them fast, at a pace
syn.py       SYNs with forged sources
moves.py     SYNs with MIGRATE options that nobody's key has made
__main__.py  the commands; also slow and heavy HTTP requests, which are made as in testbed.load
"""
