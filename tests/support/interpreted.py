"""For tests that reach into classes in ways that compiled ones do not allow (see deploy/dev/compiled.py)."""

from __future__ import annotations

import pytest

from homenode_directory.server import installed_version

INTERPRETED = pytest.mark.skipif(
    "+compiled" in installed_version(),
    reason="compiled callers do not see what is replaced here, nor are there references to look at",
)
