"""Memory of loaded modules: bounded while they are loaded, and back when they are unloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpudisagg.device import nvrtc
from gpudisagg.device.cpu.compiler import CpuCompiler
from tests.device.harness import launch

WARMING, CYCLES = 150, 2000
KIB, MIB = 1 << 10, 1 << 20
# Less than a hundredth of a page for each cycle would be 80 KiB; allocators keep some.
MOST_GROWTH = 256 * KIB
SIZE = 16 * MIB
PLAIN = b'extern "C" __global__ void f(int *x) { x[threadIdx.x] += 1; }'
# With barriers, so that there are frames; and with variables, which each load has of its own.
OWN = b"""__device__ int v[1024] = {7};
extern "C" __global__ void f(int *x) { __syncthreads(); x[threadIdx.x] += v[0]++; }"""


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 * KIB


@pytest.fixture
def compiler(tmp_path: Path) -> CpuCompiler:
    return CpuCompiler(tmp_path, threads=1)


@pytest.mark.parametrize("source", [PLAIN, OWN], ids=["plain", "with variables"])
def test_loading_and_unloading_over_and_over_takes_no_memory(compiler: CpuCompiler, source: bytes) -> None:
    ptx = nvrtc.compile_to_ptx(source)
    for _ in range(WARMING):
        compiler.load(ptx).close()
    before = resident()
    for _ in range(CYCLES):
        compiler.load(ptx).close()
    assert resident() - before < MOST_GROWTH


def test_modules_that_stay_loaded_keep_their_code_while_others_come_and_go(compiler: CpuCompiler) -> None:
    ptx = nvrtc.compile_to_ptx(OWN)
    kept = [compiler.load(ptx) for _ in range(3)]
    for _ in range(200):  # several times as many as LLVM's linker is kept for
        compiler.load(ptx).close()
    for turn in range(2):
        for module in kept:
            x = np.zeros(1, np.int32)
            launch(module.kernels["f"], 1, 1, x)
            assert x[0] == 7 + turn
    for module in kept:
        module.close()


def test_a_variable_is_freed_with_its_module(compiler: CpuCompiler) -> None:
    source = (
        b'__device__ char big[%d]; extern "C" __global__ void f(char *x) { big[threadIdx.x] = *x; }' % SIZE
    )
    ptx = nvrtc.compile_to_ptx(source)
    compiler.load(ptx).close()
    before = resident()
    for _ in range(20):
        module = compiler.load(ptx)
        big = module.globals["big"]
        assert big.size == SIZE
        module.close()
    assert resident() - before < 2 * SIZE
