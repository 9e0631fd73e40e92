"""What a session has and can."""

from __future__ import annotations

from typing import NamedTuple

from transport import Way, wire


class MemoryInfo(NamedTuple):
    """Device memory of the session in bytes: `free` and `total` as cudaMemGetInfo would say, then the
    details.

    free: what arrays may still take (in one piece perhaps less); used: what arrays hold now; mapped: what the
    session holds on the device, kept for reuse included; largest_free: the largest array that fits without
    unmapping anything.
    """

    free: int
    total: int
    used: int
    mapped: int
    largest_free: int


class Capabilities(NamedTuple):
    """Of the device and of the way to it. Sizes in bytes; grid and block limits as (x, y, z)."""

    transport: str
    """"shm", "verbs" or "tcp"."""
    ways: tuple[Way, ...]
    """The transports tried, in order: the one "picked", and why not those before it."""
    gpudirect: str
    """Over verbs, once something was copied: "host memory" (the cpu device's), or by which means RDMA reaches
    the device's memory and why by no better one: "dma-buf", "peer memory", "bounce buffers". "" elsewhere.
    """
    device: str
    compute_capability: tuple[int, int]
    session: int
    host_map: bool
    """Kernels can dereference a HostArray in place."""
    memory: int
    host_memory: int
    granularity: int
    max_grid: tuple[int, int, int]
    max_block: tuple[int, int, int]
    max_block_threads: int
    max_shared_memory: int
    multiprocessors: int
    warp_size: int


def capabilities_of(
    welcome: wire.Welcome, transport: str, ways: tuple[Way, ...], gpudirect: str
) -> Capabilities:
    return Capabilities(
        transport=transport,
        ways=ways,
        gpudirect=gpudirect,
        device=welcome.name,
        compute_capability=divmod(welcome.compute_capability, 100),
        session=welcome.session,
        host_map=bool(welcome.features & wire.FEATURE_HOST_MAP),
        memory=welcome.memory,
        host_memory=welcome.host_memory,
        granularity=welcome.granularity,
        max_grid=welcome.max_grid,
        max_block=welcome.max_block,
        max_block_threads=welcome.max_block_threads,
        max_shared_memory=welcome.max_shared,
        multiprocessors=welcome.multiprocessors,
        warp_size=welcome.warp_size,
    )
