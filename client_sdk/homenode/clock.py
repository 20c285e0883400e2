"""The clock that permissions are measured on.

It must go on while the machine is suspended: a laptop that slept for an hour holds no fresh copy. Python's monotonic
clock stops then on Linux, the boot-time clock does not. Everything in the SDK takes its clock from outside as a
function that returns nanoseconds, so that a test or a simulation may bring its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

#: Returns nanoseconds since some fixed moment; never goes back.
Clock = Callable[[], int]

NS_PER_MS = 1_000_000
NS_PER_US = 1_000


def boot_clock() -> Clock:
    """Nanoseconds since boot, time in suspend included; the monotonic clock where there is no such clock."""
    clock_id = getattr(time, "CLOCK_BOOTTIME", None)
    if clock_id is None:
        return time.monotonic_ns
    try:
        time.clock_gettime_ns(clock_id)
    except OSError:  # an old kernel or a sandbox
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, clock_id)
