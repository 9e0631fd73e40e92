"""What a session costs while its function does something else."""

from __future__ import annotations

import time

import numpy as np

import gpudisagg

from . import server
from .launch import EMPTY
from .row import Effort, Measured


def cpu_share(effort: Effort) -> Measured:
    """CPU time of the client, the daemon and its workers while a session is open and idle, % of one CPU."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        session.compile(EMPTY)["empty"][1, 1]()
        session.asarray(np.ones(1 << 20, np.float32)).get()
        session.synchronize()
        served.settle()
        # The client's own looking at counters must not count: it looks at itself last, then first, and by a
        # clock that is cheap to read.
        server_ns, begin, client_ns = served.cpu_ns(), time.perf_counter_ns(), time.process_time_ns()
        time.sleep(effort.idle_seconds)
        client_ns = time.process_time_ns() - client_ns
        passed = time.perf_counter_ns() - begin
        server_ns = served.cpu_ns() - server_ns
    shares = {"client": 100 * client_ns / passed, "server": 100 * server_ns / passed}
    said = ", ".join(f"{side} {share:.3f} %" for side, share in shares.items())
    return Measured(sum(shares.values()), f"{said} over {passed / 1e9:.1f} s")
