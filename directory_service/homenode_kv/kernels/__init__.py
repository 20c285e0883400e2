"""Kernels in Triton, each beside a plain way that gives the same bits and serves where Triton is not installed."""

from __future__ import annotations

from importlib.util import find_spec


def available() -> bool:
    """Whether Triton is installed; it comes with torch for CUDA."""
    return find_spec("triton") is not None
