"""From nothing to a first result, with a warm worker and a kernel that has been compiled before."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import gpudisagg

from . import server
from .launch import SCALE
from .row import Effort, Measured

_WARM = 4  # sessions: both workers have loaded the kernel by then


def first_result(effort: Effort) -> Measured:
    """connect, asarray, compile, launch, get: ms until the result is in a numpy array, the median."""
    with server.running(workers=2) as served:
        served.settle()
        times = [_open_and_run(served.address) * 1e3 for _ in range(_WARM + effort.opens)][_WARM:]
    return Measured(
        median(times), f"median of {len(times)} sessions; best {min(times):.2f}, worst {max(times):.2f}"
    )


def _open_and_run(address: str) -> float:
    """Seconds from before connect() to the checked result; closing the session is not in it."""
    n = 1024
    x = np.arange(n, dtype=np.float32)
    begin = time.perf_counter()
    with gpudisagg.connect(address) as session:
        device_x, device_y = session.asarray(x), session.empty((n,), np.float32)
        session.compile(SCALE)["scale"][n // 256, 256](device_x, device_y, n)
        y = device_y.get()
        spent = time.perf_counter() - begin
    if not np.array_equal(y, 2 * x):
        raise RuntimeError("the kernel's result is wrong: what was timed means nothing")
    return spent
