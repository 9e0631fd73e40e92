"""Deadlines: seconds from now here, nanoseconds on CLOCK_MONOTONIC in C."""

from __future__ import annotations

import errno
from collections.abc import Callable
from time import monotonic_ns

__all__ = ["SLICE", "SLICE_NS", "deadline_ns", "sliced"]

SLICE = 0.2
"""Seconds. A wait in C is cut into slices of this, so that a signal's handler (Ctrl-C) runs in between."""

SLICE_NS = int(SLICE * 1e9)
_FOREVER = 3.0e8


def deadline_ns(timeout: float) -> int:
    """`timeout` seconds from now on the clock of every deadline in C; below 0 counts as 0."""
    return monotonic_ns() + int(min(max(timeout, 0.0), _FOREVER) * 1e9)


def sliced(call: Callable[[int], int], timeout: float) -> int:
    """Calls `call(deadline)` slice by slice until it says other than -ETIMEDOUT, or `timeout` seconds have
    passed.
    """
    end = deadline_ns(timeout)
    while True:
        deadline = min(end, monotonic_ns() + SLICE_NS)
        rc = call(deadline)
        if rc != -errno.ETIMEDOUT or deadline == end:
            return rc
