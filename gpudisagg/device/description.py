"""What a device is, as far as a program that launches kernels needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceDescription:
    """The properties CUDA programs ask for, in CUDA's units."""

    name: str
    compute_capability: tuple[int, int]
    max_threads_per_block: int = 1024
    max_block: tuple[int, int, int] = (1024, 1024, 64)
    max_grid: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    max_shared_per_block: int
    warp_size: int = 32
    multiprocessors: int
