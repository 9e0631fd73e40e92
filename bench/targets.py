"""Every target there is, a row each: `python -m bench targets` measures them all. Later work adds its rows
here.
"""

from __future__ import annotations

from . import beside, bulk, delayed, idle, kernels, latency, launch, opening, recovery, verbs
from .row import Target, at_least, at_most

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
    Target(
        "shm: C, 64-byte round trip with peer-death detection",
        "× the raw cache-line floor",
        "≤ 1.1",
        beside.c_round_trip_and_floor,
        at_most(1.1),
    ),
    Target(
        "shm: C, 64-byte round trip with peer-death detection, and UCX's without",
        "× UCX tag's",
        "≤ 1",
        beside.c_round_trip_and_ucx,
        at_most(1.0),
    ),
    Target(
        "shm: one-way 64 B from C",
        "× 60 M/s, or 3 × UCX tag's rate where that is less",
        "≥ 1",
        beside.one_way,
        at_least(1.0),
    ),
    Target("shm: Python round trip, and UCXX's", "× faster", "≥ 6", beside.python_and_ucxx, at_least(6.0)),
    Target(
        "shm: Python round trip, and NIXL's without error handling",
        "× faster",
        "≥ 6",
        beside.python_and_nixl,
        at_least(6.0),
    ),
    Target(
        "shm: Python round trip, and gRPC streaming's",
        "× faster",
        "≥ 300",
        beside.python_and_grpc,
        at_least(300.0),
    ),
    Target(
        "shm: bulk of 64 MiB from numpy, warm",
        "× the best single copy's bandwidth",
        "≥ 0.95",
        bulk.upload_64_mib,
        at_least(0.95),
    ),
    Target(
        "shm: bulk of 64 MiB from numpy, warm, and UCX put",
        "× its bandwidth",
        "≥ 1.4",
        beside.bulk_and_ucx,
        at_least(1.4),
    ),
    Target(
        "shm: bulk of 64 MiB from numpy, warm, and NIXL without error handling",
        "× its bandwidth",
        "≥ 1.4",
        beside.bulk_and_nixl,
        at_least(1.4),
    ),
    Target(
        "shm: first transfer into a pooled buffer, 64 MiB",
        "× a warm one's bandwidth",
        "≥ 0.9",
        bulk.first_transfer,
        at_least(0.9),
    ),
    Target(
        "tcp: bulk of 64 MiB on the loopback",
        "× raw sockets' bandwidth",
        "≥ 0.95",
        beside.tcp_bulk_and_sockets,
        at_least(0.95),
    ),
    Target(
        "tcp: bulk of 64 MiB on the loopback, and UCX over tcp",
        "× its bandwidth",
        "≥ 1",
        beside.tcp_bulk_and_ucx,
        at_least(1.0),
    ),
    Target(
        "tcp: C, 64-byte round trip",
        "× raw spinning sockets'",
        "≤ 1.2",
        beside.tcp_round_trip_and_sockets,
        at_most(1.2),
    ),
    Target(
        "tcp: C, 64-byte round trip, and UCX's over tcp",
        "× UCX tag's",
        "≤ 1",
        beside.tcp_round_trip_and_ucx,
        at_most(1.0),
    ),
    Target("verbs: upload of 1 MiB, several at once", "× ib_read_bw", "≥ 0.9", verbs.upload, at_least(0.9)),
    Target(
        "verbs: download of 1 MiB, several at once", "× ib_write_bw", "≥ 0.9", verbs.download, at_least(0.9)
    ),
    Target(
        "tcp: 1,000 launches and one synchronise at 1 ms emulated round trip, beyond what they take without",
        "round trips",
        "≤ 1.1",
        delayed.launches,
        at_most(1.1),
    ),
    Target(
        "shm: C, 64-byte round trip in which both sides sleep",
        "× futex's",
        "≤ 1.15",
        beside.sleeping,
        at_most(1.15),
    ),
    *kernels.ROWS,
)
