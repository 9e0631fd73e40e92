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
        time.sleep(effort.idle_seconds / 10)  # long past the spinning that follows the last command
        sides = {"client": [os.getpid()], "server": [served.pid, *measure.descendants(served.pid)]}
        before = {side: sum(map(measure.cpu_ns, pids)) for side, pids in sides.items()}
        begin = time.perf_counter_ns()
        time.sleep(effort.idle_seconds)
        passed = time.perf_counter_ns() - begin
        shares = {side: 100 * (sum(map(measure.cpu_ns, pids)) - before[side]) / passed for side, pids in sides.items()}
    said = ", ".join(f"{side} {share:.3f} %" for side, share in shares.items())
    return Measured(sum(shares.values()), f"{said} over {passed / 1e9:.1f} s, {len(sides['server'])} server processes")
