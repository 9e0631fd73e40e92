"""How long a death goes unnoticed: by the worker of a killed client, by the client of a killed worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import gpudisagg

from . import measure, server
from .launch import EMPTY
from .row import Effort, Measured

_PATIENCE = 30.0
_ENDLESS = 'extern "C" __global__ void endless(volatile int *x) { while (*x == 0) {} }'
# A function that says when it is at work, and then works until it is killed.
_CLIENT = """
import sys, gpudisagg
session = gpudisagg.connect(sys.argv[1])
x = session.zeros(1 << 20, "i4")
session.synchronize()
if sys.argv[2]:
    session.compile(sys.argv[2])["endless"][1, 1](x)
print("at work", flush=True)
sys.stdin.read()
"""


def _worst(seconds: list[float]) -> Measured:
    return Measured(max(seconds), f"the worst of {len(seconds)}; median {median(seconds):.3f}")


def _client_killed(effort: Effort, source: str) -> Measured:
    """From SIGKILL to the client until the only worker's next session is open."""
    with server.running(log_level="error") as served:

        def once() -> float:
            served.settle()
            command = [sys.executable, "-c", _CLIENT, served.address, source]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                if client.stdout.readline() != b"at work\n":
                    raise RuntimeError("the client did not get to work; its errors are above")
                begin = time.perf_counter()
                client.kill()
                gpudisagg.connect(served.address, timeout=_PATIENCE).close()
                return time.perf_counter() - begin

        return _worst([once() for _ in range(effort.deaths)])


def idle_client_killed(effort: Effort) -> Measured:
    return _client_killed(effort, "")


def computing_client_killed(effort: Effort) -> Measured:
    return _client_killed(effort, _ENDLESS)


def worker_killed(effort: Effort) -> Measured:
    """From SIGKILL to the workers until a client that keeps launching is told that its session is lost."""
    with server.running(log_level="error") as served:

        def once() -> float:
            served.settle()
            with gpudisagg.connect(served.address, timeout=_PATIENCE) as session:
                launch: Callable[[], object] = session.compile(EMPTY)["empty"][1, 1]
                launch()
                session.synchronize()
                for pid in measure.descendants(served.pid):
                    os.kill(pid, signal.SIGKILL)
                begin = time.perf_counter()
                try:
                    while time.perf_counter() - begin < _PATIENCE:
                        launch()
                        session.synchronize()
                except gpudisagg.SessionLost:
                    return time.perf_counter() - begin
            raise RuntimeError("the client was never told that its worker was killed")

        return _worst([once() for _ in range(effort.deaths)])
