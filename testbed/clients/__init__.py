"""Clients that look closely: C sources, compiled where they are used."""
