"""What a network's round trip costs a session: nothing but where it must wait for an answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from urllib.parse import urlsplit

import gpudisagg

from . import emulate, measure, peers, server
from .launch import EMPTY
from .row import Effort, Measured

LINK = emulate.Link(rtt=1e-3)


def launches(effort: Effort) -> Measured:
    """1,000 launches and one synchronise over an emulated link, less the same over one without delay, in
    round trips of raw sockets over that link.
    """
    count = effort.delayed_launches
    with server.running(workers=2, listen="tcp") as served:
        where = urlsplit(served.address)
        assert where.hostname is not None and where.port is not None
        with (
            emulate.proxy(where.hostname, where.port, LINK) as slow,
            emulate.proxy(where.hostname, where.port, emulate.Link()) as fast,
            gpudisagg.connect(f"tcp://127.0.0.1:{slow}") as far,
            gpudisagg.connect(f"tcp://127.0.0.1:{fast}") as near,
            _raw_sockets() as raw,
        ):
            kernels = [(session, session.compile(EMPTY)["empty"]) for session in (far, near)]
            served.settle()

            def launch_and_wait(which: int) -> float:
                session, kernel = kernels[which]
                begin = time.perf_counter()
                for _ in range(count):
                    kernel[1, 1]()
                session.synchronize()
                return time.perf_counter() - begin

            def round_trip() -> float:
                return raw.round_trips(20).p50 / 1e9

            subjects = {
                "far": lambda: launch_and_wait(0),
                "near": lambda: launch_and_wait(1),
                "raw": round_trip,
            }
            for subject in subjects.values():
                subject()
            times = measure.interleave(subjects, effort.rounds)
    extra = [far - near for far, near in zip(times["far"], times["near"], strict=True)]
    ms = {name: median(seconds) * 1e3 for name, seconds in times.items()}
    said = (
        f"{ms['far']:.2f} ms over the link, {ms['near']:.2f} ms without delay, round trip {ms['raw']:.2f} ms"
    )
    return Measured(measure.ratio(extra, times["raw"]), said)


@contextmanager
def _raw_sockets() -> Iterator[peers.Pair]:
    """Over the same link."""
    before = os.environ.get(emulate.VARIABLE, "")
    os.environ[emulate.VARIABLE] = str(LINK)
    try:
        pair = peers.kind("tcp socket").open(largest=64)
    finally:
        os.environ[emulate.VARIABLE] = before
    try:
        yield pair
    finally:
        pair.close()
