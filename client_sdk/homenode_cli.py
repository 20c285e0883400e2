"""The command `homenode`, which Ctrl-C ends without a traceback even while its modules are still loading."""

from __future__ import annotations


def main() -> int:
    """Load the command line and run it; returns its exit code."""
    try:
        from homenode.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130
