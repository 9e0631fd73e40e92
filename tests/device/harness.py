"""Runs compiled kernels without an engine: builds a gpud_kernel_context as csrc/engine/kernel_abi.h has
it.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpudisagg.device import KernelCode, LoadedModule
from gpudisagg.device.cpu.compiler import CpuCompiler

KERNELS = Path(__file__).parent / "kernels"
CONTEXT_BYTES = 192
_PRINT_FIELD = 72
PRINT = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
# Bytes after shared memory and scratch that no kernel may touch.
_GUARD = 256
Array = npt.NDArray[np.generic]


@functools.cache
def compiler() -> CpuCompiler:
    """One compiler for all tests, with a disk cache nobody else uses."""
    import atexit
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="gpudisagg-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return CpuCompiler(cache_dir=folder, threads=1)


def load_file(name: str) -> LoadedModule:
    """A module from tests/device/kernels."""
    return compiler().load((KERNELS / name).read_bytes(), name=name)


def _aligned(size: int, fill: int, align: int = 64) -> Array:
    raw = np.full(size + align + _GUARD, fill, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size + _GUARD]


def pack(kernel: KernelCode, arguments: Sequence[object]) -> bytes:
    """The parameter buffer: arrays as addresses, numpy scalars and bytes as they are."""
    assert len(arguments) == len(kernel.params), f"{kernel.name} takes {len(kernel.params)} arguments"
    buffer = bytearray(kernel.params_size)
    for (offset, size, _kind), argument in zip(kernel.params, arguments, strict=True):
        if isinstance(argument, np.ndarray):
            data = struct.pack("<Q", argument.ctypes.data)
        elif isinstance(argument, np.generic):
            data = argument.tobytes()
        else:
            assert isinstance(argument, bytes)
            data = argument
        assert len(data) == size, f"{kernel.name}: argument of {len(data)} bytes for a parameter of {size}"
        buffer[offset : offset + size] = data
    return bytes(buffer)


class Launch:
    """A kernel with its context and memory, ready to run any number of times."""

    def __init__(
        self,
        kernel: KernelCode,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[object],
        dynamic_shared: int = 0,
    ) -> None:
        threads = block[0] * block[1] * block[2]
        assert threads <= kernel.max_threads
        self.kernel = kernel
        self.blocks = grid[0] * grid[1] * grid[2]
        self.arguments = arguments
        self.params = _aligned(max(kernel.params_size, 1), 0)
        self.params[: kernel.params_size] = np.frombuffer(pack(kernel, arguments), np.uint8)
        self.shared_bytes = -(-kernel.static_shared // 16) * 16 + dynamic_shared
        self.shared = _aligned(self.shared_bytes, 0xA5, 256)
        self.scratch_bytes = kernel.scratch_fixed + kernel.scratch_per_thread * threads
        self.scratch = _aligned(self.scratch_bytes, 0x5A)
        self.context = _aligned(CONTEXT_BYTES, 0)
        head = struct.pack("<10I", *grid, *block, dynamic_shared, 0, 1, 1)
        pointers = struct.pack("<QQ", self.shared.ctypes.data, self.scratch.ctypes.data)
        self.context[: len(head) + 16] = np.frombuffer(head + pointers, np.uint8)
        self.entry = _ENTRY(kernel.entry)

    def print_to(self, function: Any) -> None:
        """What printf calls: a `PRINT`, which must outlive this."""
        field = np.frombuffer(bytes(ctypes.cast(function, ctypes.c_void_p)), np.uint8)
        self.context[_PRINT_FIELD : _PRINT_FIELD + 8] = field

    def run(self, first: int = 0, count: int | None = None) -> None:
        """Run a range of blocks (all by default)."""
        count = self.blocks - first if count is None else count
        self.entry(self.params.ctypes.data, self.context.ctypes.data, first, count)

    def check_guards(self) -> None:
        """Nothing outside what the kernel asked for was written."""
        assert (self.shared[self.shared_bytes :] == 0xA5).all(), "wrote past shared memory"
        assert (self.scratch[self.scratch_bytes :] == 0x5A).all(), "wrote past scratch memory"


def launch(
    kernel: KernelCode,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    *arguments: object,
    dynamic_shared: int = 0,
) -> None:
    """Run a kernel once over its whole grid."""
    once = Launch(kernel, _three(grid), _three(block), arguments, dynamic_shared)
    once.run()
    once.check_guards()


def _three(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    given = (size,) if isinstance(size, int) else size
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z
