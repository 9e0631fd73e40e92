"""Round trips of 64 bytes between two processes: in C, and from Python against C. Each beside a bare cache
line.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from . import floor, measure
from .peer import Peer
from .row import Effort, Measured

_BATCH = 25  # round trips between two looks at the clock, from Python: it costs as much as a part of one
_MESSAGE = 64  # bytes, the message's head included: one slot, one cache line


@contextmanager
def _echo(cpu: int | None) -> Iterator[Any]:
    """A transport connection to a process that echoes in C."""
    import transport

    with tempfile.TemporaryDirectory(prefix="gpudisagg-bench-") as folder:
        address = f"unix://{folder}/echo.sock"
        with Peer(["echo", address, str(-1 if cpu is None else cpu)]) as peer:
            peer.expect("listening")
            with transport.connect(address, timeout=30.0) as connection:
                yield connection


def c_round_trip(effort: Effort) -> Measured:
    """A 64-byte command and its reply, C on both sides, as a ratio of the raw cache line's round trip."""
    from transport._transport import ffi, lib
    from transport.errors import check

    here, there = measure.two_cpus()
    rounds = effort.round_trips
    ns = ffi.new("uint64_t[]", rounds)

    with floor.cache_line(there) as line, _echo(there) as connection, measure.pinned(here):

        def subject() -> float:
            check(lib.gpud_connection_pingpong(connection.pointer, _MESSAGE, rounds, ns), "pingpong")
            return measure.middle_mean(list(ns))

        def bare() -> float:
            return measure.middle_mean(line.pingpong(rounds).tolist())

        subject(), bare()
        times = measure.interleave({"subject": subject, "floor": bare}, effort.rounds)
    ours, raw = median(times["subject"]), median(times["floor"])
    return Measured(
        measure.ratio(times["subject"], times["floor"]),
        f"{ours:.0f} ns against {raw:.0f} ns, medians of {effort.rounds} × {rounds} round trips",
    )


def python_round_trip(effort: Effort) -> Measured:
    """A request and its answer through the Python `transport`, against an echo in C, as a ratio of a bare
    cffi call that does the same.
    """
    here, there = measure.two_cpus()
    batches = effort.python_round_trips // _BATCH
    payload = bytes(_MESSAGE - 16)

    with floor.cache_line(there) as line, _echo(there) as connection, measure.pinned(here):

        def subject() -> float:
            run = connection.exchange(len(payload)).run
            times = []
            for _ in range(batches):
                begin = time.perf_counter_ns()
                for _ in range(_BATCH):
                    run()
                times.append((time.perf_counter_ns() - begin) / _BATCH)
            return median(times)

        def bare() -> float:
            times = []
            with line.round_trips(batches * _BATCH) as (call, memory, request, reply, first):
                for start in range(first, first + batches * _BATCH, _BATCH):
                    begin = time.perf_counter_ns()
                    for sequence in range(start, start + _BATCH):
                        call(memory, request, reply, sequence)
                    times.append((time.perf_counter_ns() - begin) / _BATCH)
            return median(times)

        subject(), bare()
        times = measure.interleave({"subject": subject, "floor": bare}, effort.rounds)
    ours, raw = median(times["subject"]), median(times["floor"])
    return Measured(
        measure.ratio(times["subject"], times["floor"]),
        f"{ours:.0f} ns against {raw:.0f} ns, medians of {effort.rounds} × {batches} batches of {_BATCH}",
    )
