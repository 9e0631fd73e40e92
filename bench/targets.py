"""Every target there is, a row each: `python -m bench targets` measures them all. Later work adds its rows
here.
"""

from __future__ import annotations

from collections.abc import Callable

from . import bulk, idle, latency, launch, opening, recovery
from .row import Target


def at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


def at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


# "0 %" of a CPU: less than a clock tick in ten seconds.
_NOTHING = 0.1

TARGETS: tuple[Target, ...] = (
    Target(
        "C, 64-byte command and reply, two processes, peer-death detection on",
        "× the raw cache-line floor",
        "≤ 1.15",
        latency.c_round_trip,
        at_most(1.15),
    ),
    Target(
        "Python transport round trip, C echo server",
        "× a bare cffi round trip",
        "≤ 1.5",
        latency.python_round_trip,
        at_most(1.5),
    ),
    Target("Python: post a launch of an empty kernel (no wait)", "µs", "≤ 1.5", launch.post, at_most(1.5)),
    Target(
        "Python: launch an empty kernel and synchronise",
        "µs",
        "≤ 3",
        launch.post_and_synchronize,
        at_most(3.0),
    ),
    Target("alloc + free of 1 MiB after warm-up", "messages", "0", launch.alloc_free_messages, at_most(0.0)),
    Target(
        "numpy → device, warm, 64 MiB",
        "× the best single copy's bandwidth",
        "≥ 0.9",
        bulk.upload_64_mib,
        at_least(0.9),
    ),
    Target(
        "numpy → device, warm, 1 GiB",
        "× the best single copy's bandwidth",
        "≥ 0.9",
        bulk.upload_1_gib,
        at_least(0.9),
    ),
    Target("HostArray as kernel argument", "bytes copied", "0", launch.host_array_bytes, at_most(0.0)),
    Target(
        "session open to first result, warm worker, cached kernel",
        "ms",
        "≤ 5",
        opening.first_result,
        at_most(5.0),
    ),
    Target("idle session, both sides", "% of a CPU", "0", idle.cpu_share, lambda value: value < _NOTHING),
    Target("client killed, its worker free", "s", "≤ 1", recovery.idle_client_killed, at_most(1.0)),
    Target(
        "client killed in an endless kernel, its worker's place free",
        "s",
        "≤ 1",
        recovery.computing_client_killed,
        at_most(1.0),
    ),
    Target("worker killed, its client told", "s", "≤ 1", recovery.worker_killed, at_most(1.0)),
)
