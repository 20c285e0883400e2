"""bench: load on a directory, from processes of its own, and what came of it."""

from homenode.cli.bench.command import register

__all__ = ["register"]
