"""What a launch costs from Python, and what costs no message and no copy at all."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import gpudisagg

from . import measure, server
from .row import Effort, Measured

EMPTY = 'extern "C" __global__ void empty() {}'
SCALE = """
extern "C" __global__ void scale(const float *x, float *y, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = 2 * x[i];
}
"""
_BATCHES = 40


def post(effort: Effort) -> Measured:
    """`kernel[1, 1]()`, not waited for: µs a launch, the median of batches that fit the ring."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        kernel = session.compile(EMPTY)["empty"]
        served.settle()

        def batch() -> float:
            launches = range(effort.launches)
            begin = time.perf_counter_ns()
            for _ in launches:
                kernel[1, 1]()
            spent = time.perf_counter_ns() - begin
            session.synchronize()
            return spent / len(launches) / 1e3

        batch()
        times = [batch() for _ in range(effort.rounds * _BATCHES)]
    return Measured(
        median(times), f"median of {len(times)} batches of {effort.launches}; best {min(times):.2f}"
    )


def post_and_synchronize(effort: Effort) -> Measured:
    """`kernel[1, 1]()` and `session.synchronize()`: µs for both, the median."""
    with server.running() as served, gpudisagg.connect(served.address) as session:
        kernel = session.compile(EMPTY)["empty"]
        served.settle()
        times = []
        noise = measure.Noise()
        for _ in range(effort.rounds * effort.launches * 4):
            begin = time.perf_counter_ns()
            kernel[1, 1]()
            session.synchronize()
            times.append((time.perf_counter_ns() - begin) / 1e3)
        stolen = noise.stolen()
    times.sort()
    tail = times[len(times) * 99 // 100]
    return Measured(
        median(times), f"median of {len(times)}; p99 {tail:.1f}; {stolen:.1%} of the CPUs stolen meanwhile"
    )


def alloc_free_messages(effort: Effort) -> Measured:
    """Messages that one `empty` of 1 MiB and its release send, once the session has memory to reuse."""
    pairs = effort.rounds * 50
    with server.running() as served, gpudisagg.connect(served.address) as session:
        session.empty((1 << 20,), np.uint8)  # and gone: now there is memory to reuse
        session.synchronize()
        before = session.stats()["messages_sent"]
        for _ in range(pairs):
            session.empty((1 << 20,), np.uint8)
        sent = session.stats()["messages_sent"] - before
    return Measured(sent / pairs, f"{sent} messages in {pairs} pairs")


def host_array_bytes(effort: Effort) -> Measured:
    """Bytes that either side copies when a kernel reads one HostArray and writes another."""
    n, launches = 1 << 18, effort.rounds
    with server.running() as served, gpudisagg.connect(served.address) as session:
        kernel = session.compile(SCALE)["scale"]
        x, y = session.host_empty((n,), np.float32), session.host_empty((n,), np.float32)
        x[:] = np.arange(n, dtype=np.float32)
        before = session.stats()
        for _ in range(launches):
            kernel[n // 256, 256](x, y, n)
        session.synchronize()
        after = session.stats()
        if not np.array_equal(y, x * 2):
            raise RuntimeError("the kernel's result is wrong: what was counted means nothing")
    copied = sum(after[key] - before[key] for key in ("bytes_copied_in", "bytes_copied_out"))
    sent = after["messages_sent"] - before["messages_sent"]
    return Measured(copied / launches, f"{launches} launches on 2 × 1 MiB of host memory, {sent} messages")
