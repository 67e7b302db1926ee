"""What is measured of a trial.

What is compared across mechanisms comes from what the application read (deliveries, requests, play-out), which is the
same for all: QUIC is encrypted, MPTCP has two subflows. What the wire must prove comes from the captures
(analysis.metrics.wire). Each metric says which.
"""
