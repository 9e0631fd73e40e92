"""Numpy arrays to device memory, against the best single copy that this CPU has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
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


@cache  # for two rows
def upload_64_mib(effort: Effort) -> Measured:
    return upload(64 << 20, effort, effort.bulk_rounds * 3)


def upload_1_gib(effort: Effort) -> Measured:
    return upload(1 << 30, effort, effort.bulk_rounds)


def first_transfer(effort: Effort) -> Measured:
    """The first upload into memory that the session had, gave back to its pool and took again, as a share of
    the bandwidth of those that follow. Beside it the first upload of a fresh session, which also makes
    the buffers that uploads go through.
    """
    size = (64 << 20) // effort.bulk_scale
    source = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    fresh, pooled, warm = [], [], []
    with server.running() as served:
        for turn in range(effort.bulk_rounds + 1):
            served.settle()  # the worker that comes next is ready
            with gpudisagg.connect(served.address, memory="1GiB") as session:

                def put(array: gpudisagg.DeviceArray, session: gpudisagg.Session = session) -> float:
                    def work() -> None:
                        array.set(source)
                        session.synchronize()

                    return measure.seconds_of(work)

                array = session.empty((size,), np.uint8)
                times = [put(array) for _ in range(4)]
                del array
                array = session.empty((size,), np.uint8)
                again = [put(array) for _ in range(4)]
                if not np.array_equal(array.get(), source):
                    raise RuntimeError(
                        "the device has other bytes than were sent: what was measured means nothing"
                    )
            if turn > 0:  # the first session's worker loads what all have in common
                fresh.append(times[0])
                pooled.append(again[0])
                warm.append(median(times[1:] + again[1:]))
    speeds = [f"{size / median(seconds) / 1e9:.1f}" for seconds in (pooled, warm, fresh)]
    return Measured(
        measure.ratio(warm, pooled),
        f"GB/s: first {speeds[0]}, then {speeds[1]}; a fresh session's first {speeds[2]}",
    )
