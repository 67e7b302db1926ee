"""Experiments: a scenario on a topology, its results directory, and the verdict from the captures."""
