"""Rows of large contents on their way in."""

from __future__ import annotations

from tests.bench.rows import Figures, Row, group
from tests.bench.running import Bench
from tests.bench.throughput import compared

CHUNKS = 16


@group(
    Row(
        "upload_resume_16m",
        "upload of 16 MiB of which 15 are stored, p50",
        "upload of all of it, p50",
        "ms",
        1.5,
        True,
        times_faster=True,
    )
)
def upload_resume_16m(bench: Bench) -> Figures:
    """Both end with the whole verified and its list kept; what is stored already the server reads and hashes."""
    ours = bench.ours("large_load.upload", 1, chunks=CHUNKS, kept=CHUNKS - 1)
    return compared(
        bench, ours, {"upload_resume_16m": ("whole", bench.ours("large_load.upload", 1, chunks=CHUNKS))}, "p50_ms"
    )[0]
