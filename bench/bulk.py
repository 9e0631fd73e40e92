"""Numpy arrays to device memory, against the best single copy that this CPU has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

import gpudisagg

from . import floor, measure, server
from .row import Effort, Measured


def upload(size: int, effort: Effort, rounds: int) -> Measured:
    """`array.set(numpy)` until the bytes are on the device, warm: its bandwidth as a share of the best
    single copy's.
    """
    size //= effort.bulk_scale
    source = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    destination = np.ones(size, np.uint8)  # touched: its pages exist

    with server.running() as served, gpudisagg.connect(served.address, memory="2GiB") as session:
        array = session.zeros((size,), np.uint8)

        def subject() -> float:
            def work() -> None:
                array.set(source)
                session.synchronize()

            return measure.seconds_of(work)

        subjects: dict[str, Callable[[], float]] = {"gpudisagg": subject}

        def copy(how: int) -> float:
            return floor.copy_ns(destination, source, how) / 1e9

        subjects.update({name: partial(copy, how) for how, name in enumerate(floor.COPIES) if copy(how)})
        subject()
        served.settle()
        times = measure.interleave(subjects, rounds)
        if not np.array_equal(array.get(), source):
            raise RuntimeError("the device has other bytes than were sent: what was measured means nothing")
    speed = {name: size / median(seconds) / 1e9 for name, seconds in times.items()}
    best = max(floor.COPIES, key=lambda name: speed.get(name, 0.0))
    said = ", ".join(f"{name} {speed[name]:.1f}" for name in speed)
    return Measured(measure.ratio(times[best], times["gpudisagg"]), f"GB/s: {said}; best copy: {best}")


def upload_64_mib(effort: Effort) -> Measured:
    return upload(64 << 20, effort, effort.bulk_rounds * 3)


def upload_1_gib(effort: Effort) -> Measured:
    return upload(1 << 30, effort, effort.bulk_rounds)
