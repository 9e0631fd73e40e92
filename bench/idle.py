"""What a session costs while its function does something else."""

from __future__ import annotations

import os
import time

import numpy as np

import gpudisagg

from . import measure, server
from .launch import EMPTY
from .row import Effort, Measured


def cpu_share(effort: Effort) -> Measured:
    """CPU time of the client, the daemon and its workers while a session is open and idle, % of one CPU."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        session.compile(EMPTY)["empty"][1, 1]()
        session.asarray(np.ones(1 << 20, np.float32)).get()
        session.synchronize()
        served.settle()
        # The client's own looking at the server's counters must not count: it looks at itself last, then
        # first.
        server_ns, client_ns, begin = served.cpu_ns(), measure.cpu_ns(os.getpid()), time.perf_counter_ns()
        time.sleep(effort.idle_seconds)
        passed, client_ns = time.perf_counter_ns() - begin, measure.cpu_ns(os.getpid()) - client_ns
        server_ns = served.cpu_ns() - server_ns
    shares = {"client": 100 * client_ns / passed, "server": 100 * server_ns / passed}
    said = ", ".join(f"{side} {share:.3f} %" for side, share in shares.items())
    return Measured(sum(shares.values()), f"{said} over {passed / 1e9:.1f} s")
