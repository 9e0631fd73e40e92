"""Loops in which threads wait for what others write: found by their text, and run so that those get on."""

from __future__ import annotations

import numpy as np
import pytest

from gpudisagg.device.cpu.parser import parse
from gpudisagg.device.cpu.spinning import Spins, spins_of
from gpudisagg.device.cpu.translate import translate
from tests.device.harness import compiler, launch

HEAD = ".version 7.0\n.target sm_80\n.address_size 64\n"


def loop(statements: str) -> Spins:
    """What is found in a kernel with these statements, the first of which is on line 9."""
    text = (
        f"{HEAD}.visible .entry k(.param .u64 out)\n{{\n"
        ".reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %d<9>; .shared .b32 flag;\n"
        f"mov.u32 %r8, %tid.x;\nld.param.u64 %d0, [out];\n{statements}\nret;\n}}\n"
    )
    return spins_of(parse(text.encode()).functions["k"])


SPINS = {
    "a flag": "L: ld.acquire.gpu.u32 %r0, [%d0];\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 bra L;",
    "a volatile flag": "L: ld.volatile.shared.u32 %r0, [flag];\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 bra L;",
    "left in the middle": (
        "L: ld.relaxed.gpu.u32 %r0, [%d0];\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra OUT;\nbra L;\nOUT:"
    ),
    "through arithmetic": (
        "L: ld.relaxed.gpu.u32 %r0, [%d0];\nand.b32 %r1, %r0, 1;\nsetp.eq.u32 %p0, %r1, 0;\n@%p0 bra L;"
    ),
}
OTHERS = {
    "counted": "L: ld.volatile.u32 %r0, [%d0];\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, 9;\n@%p0 bra L;",
    "a plain load": "L: ld.u32 %r0, [%d0];\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 bra L;",
    "looked at before": (
        "ld.volatile.u32 %r0, [%d0];\nL: add.u32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, %r0;\n@%p0 bra L;"
    ),
    "decides nothing about the loop": (
        "L: ld.volatile.u32 %r0, [%d0];\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 bra SKIP;\n"
        "SKIP: add.u32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, 9;\n@%p0 bra L;"
    ),
}
LOCK = "L: atom.global.cas.b32 %r0, [%d0], 0, 1;\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra L;"
GRID = (
    "mov.u32 %r1, %envreg2; cvt.u64.u32 %d1, %r1; mov.u32 %r2, %envreg1; cvt.u64.u32 %d2, %r2;\n"
    "bfi.b64 %d3, %d2, %d1, 32, 32; add.s64 %d4, %d3, 4; atom.add.release.gpu.u32 %r3, [%d4], 1;\n"
    "L: ld.acquire.gpu.u32 %r4, [%d4];\nxor.b32 %r5, %r4, %r3;\nsetp.gt.s32 %p0, %r5, -1;\n@%p0 bra L;"
)


@pytest.mark.parametrize("name", SPINS)
def test_a_loop_that_waits_is_found(name: str) -> None:
    found = loop(SPINS[name])
    back = next(i for i, line in enumerate(SPINS[name].splitlines(), 9) if line.endswith("bra L;"))
    assert found.others and found.branches == {back}


@pytest.mark.parametrize("name", OTHERS)
def test_a_loop_that_does_not_wait_is_left_alone(name: str) -> None:
    assert loop(OTHERS[name]) == Spins(frozenset(), False)


def test_a_lock_lets_others_run_and_changes_nothing_else() -> None:
    assert loop(LOCK) == Spins(frozenset({11}), False)


def test_a_loop_with_a_barrier_in_it_waits_there() -> None:
    found = loop("L: bar.sync 0;\nld.volatile.u32 %r0, [%d0];\nsetp.eq.u32 %p0, %r0, 0;\n@%p0 bra L;")
    assert found == Spins(frozenset({12}), False)


def test_the_barrier_of_a_grid_is_for_other_blocks_to_change() -> None:
    found = loop(GRID)
    assert found.branches and not found.others


CHAIN = r"""
extern "C" __global__ void chain(int* out) {
  __shared__ volatile int turn;
  int me = blockDim.x - 1 - threadIdx.x;   // the last thread goes first
  if (threadIdx.x == 0) turn = 0;
  __syncthreads();
  while (turn != me) {}
  out[threadIdx.x] = me * 10;
  __threadfence_block();
  turn = me + 1;
}
extern "C" __global__ void pair(int* flag, int* out) {
  if (threadIdx.x == 0) { while (*(volatile int*)flag == 0) {} out[0] = out[1] + 1; }
  else { out[1] = 41; __threadfence(); *(volatile int*)flag = 1; }
}
extern "C" __global__ void sleepy(int* flag, int* out) {
  if (threadIdx.x < 32) { while (atomicAdd(flag, 0) == 0) __nanosleep(100); out[threadIdx.x] = 1; }
  else if (threadIdx.x == 40) atomicExch(flag, 1);
  __syncthreads();
}
"""


@pytest.fixture(scope="module")
def module() -> object:
    return compiler().load(CHAIN.encode(), name="chain")


@pytest.mark.parametrize("threads", [1, 2, 32, 33, 256])
def test_threads_of_a_block_wait_for_one_another(module: object, threads: int) -> None:
    out = np.zeros(threads, np.int32)
    launch(module.kernels["chain"], 2, threads, out)  # type: ignore[attr-defined]
    assert (out == np.arange(threads)[::-1] * 10).all()


def test_an_earlier_thread_waits_for_a_later_one_without_a_barrier(module: object) -> None:
    flag, out = np.zeros(1, np.int32), np.zeros(2, np.int32)
    launch(module.kernels["pair"], 1, 2, flag, out)  # type: ignore[attr-defined]
    assert out.tolist() == [42, 41]


def test_a_warp_sleeps_until_another_wakes_it(module: object) -> None:
    flag, out = np.zeros(1, np.int32), np.zeros(32, np.int32)
    launch(module.kernels["sleepy"], 1, 64, flag, out)  # type: ignore[attr-defined]
    assert out.all()


def test_a_grid_barrier_leaves_the_kernel_in_lockstep() -> None:
    """The loop over warps, not threads: frames are for 32 threads."""
    text = (
        f"{HEAD}.visible .entry k(.param .u64 out)\n{{\n"
        ".reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %d<9>;\nbar.sync 0;\nmov.u32 %r8, %tid.x;\n"
        f"setp.ne.u32 %p1, %r8, 0;\n@%p1 bra OUT;\n{GRID}\nOUT: bar.sync 0;\nret;\n}}\n"
    )
    (kernel,) = translate(parse(text.encode())).kernels
    assert kernel.frame_threads == 32
