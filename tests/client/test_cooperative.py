"""Cooperative launches: all blocks of a grid at once, meeting at cooperative_groups' grid barrier."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gpudisagg
from gpudisagg.device import nvrtc
from tests.client.conftest import PATIENCE, in_place, in_place_alone

KERNELS = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

// Sums within blocks, then, once all are there, the blocks' sums in one.
extern "C" __global__ void sum(const int* x, int n, int* parts, int* out) {
  __shared__ int warps[32];
  cg::grid_group grid = cg::this_grid();
  int mine = 0;
  for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size()) mine += x[i];
  for (int d = 16; d; d /= 2) mine += __shfl_down_sync(~0u, mine, d);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    int all = 0;
    for (int w = 0; w < (blockDim.x + 31) / 32; w++) all += warps[w];
    parts[grid.block_rank()] = all;
  }
  grid.sync();
  if (grid.thread_rank() == 0) {
    int all = 0;
    for (int b = 0; b < grid.num_blocks(); b++) all += parts[b];
    out[0] = all; out[1] = grid.num_blocks(); out[2] = grid.is_valid();
  }
}
// Prefix sums by doubling distances: as many passes as it takes, between two buffers.
extern "C" __global__ void prefix(int* from, int* to, int n) {
  cg::grid_group grid = cg::this_grid();
  for (int d = 1; d < n; d *= 2) {
    for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size())
      to[i] = from[i] + (i >= d ? from[i - d] : 0);
    grid.sync();
    int* t = from; from = to; to = t;
  }
}
// Jacobi's iteration until it changes no more; says how many passes that took.
extern "C" __global__ void jacobi(float* u, float* v, int n, int passes, float small, float* change,
                                  int* taken) {
  cg::grid_group grid = cg::this_grid();
  int pass = 0;
  for (; pass < passes; pass++) {
    if (grid.thread_rank() == 0) *(volatile float*)change = 0;
    grid.sync();
    float most = 0;
    for (unsigned long long i = grid.thread_rank(); i < (unsigned long long)n * n; i += grid.size()) {
      int x = i % n, y = i / n;
      if (x == 0 || y == 0 || x == n - 1 || y == n - 1) { v[i] = u[i]; continue; }
      v[i] = 0.25f * (u[i - 1] + u[i + 1] + u[i - n] + u[i + n]);
      most = fmaxf(most, fabsf(v[i] - u[i]));
    }
    atomicMax((int*)change, __float_as_int(most));
    grid.sync();
    float* t = u; u = v; v = t;
    bool done = *(volatile float*)change <= small;
    grid.sync();
    if (done) { pass++; break; }
  }
  if (grid.thread_rank() == 0) *taken = pass;
}
// A barrier of the program's own, without cooperative_groups.
extern "C" __global__ void by_hand(unsigned* gate, int* out, int rounds) {
  for (int r = 0; r < rounds; r++) {
    if (threadIdx.x == 0) {
      out[blockIdx.x] += 1;
      __threadfence();
      atomicAdd(gate, 1);
      while (*(volatile unsigned*)gate < (r + 1) * gridDim.x) {}
    }
    __syncthreads();
  }
}
extern "C" __global__ void arrive(int* x, int* out) {
  cg::grid_group grid = cg::this_grid();
  x[grid.thread_rank()] = grid.thread_rank();
  auto token = grid.barrier_arrive();
  out[grid.thread_rank()] = 1000;
  grid.barrier_wait(std::move(token));
  out[grid.thread_rank()] += x[grid.size() - 1 - grid.thread_rank()];
}
extern "C" __global__ void stumble(int* x, int where) {
  cg::this_grid().sync();
  if (cg::this_grid().thread_rank() == where) x[1ull << 40] = 1;
  cg::this_grid().sync();
}
extern "C" __global__ void forever(volatile int* x) { while (x[0] == 0) {} }
"""


@functools.cache
def kernels() -> bytes:
    """As PTX: compiled once for all sessions."""
    return nvrtc.compile_to_ptx(KERNELS.encode(), name="cooperative")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "checked"])
def gpu(server: str, request: pytest.FixtureRequest) -> Iterator[gpudisagg.Session]:
    with gpudisagg.connect(server, timeout=PATIENCE, check=request.param) as session:
        yield session


@pytest.fixture(scope="module")
def module(gpu: gpudisagg.Session) -> gpudisagg.Module:
    return gpu.compile(kernels())


def few(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@in_place
@few(10)
@given(n=st.integers(0, 5000), blocks=st.integers(1, 80), threads=st.integers(1, 4), seed=st.integers(0, 99))
@example(n=5000, blocks=200, threads=1, seed=1)
def test_a_sum_over_the_grid(
    gpu: gpudisagg.Session, module: gpudisagg.Module, n: int, blocks: int, threads: int, seed: int
) -> None:
    x = np.random.default_rng(seed).integers(-1000, 1000, max(n, 1), dtype=np.int32)
    parts, out = gpu.zeros(blocks, np.int32), gpu.zeros(3, np.int32)
    module["sum"].launch(blocks, 32 * threads, (gpu.asarray(x), n, parts, out), cooperative=True)
    assert out.get().tolist() == [x[:n].sum(), blocks, 1]


@in_place
@few(8)
@given(
    n=st.integers(1, 3000),
    grid=st.tuples(*[st.integers(1, 4)] * 3),
    block=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_a_prefix_sum_in_passes(
    gpu: gpudisagg.Session,
    module: gpudisagg.Module,
    n: int,
    grid: tuple[int, ...],
    block: tuple[int, ...],
) -> None:
    x = np.random.default_rng(n).integers(-1000, 1000, n, dtype=np.int32)
    buffers = [gpu.asarray(x), gpu.zeros(n, np.int32)]
    module["prefix"].launch(grid, block, (*buffers, n), cooperative=True)
    passes = (n - 1).bit_length()
    assert (buffers[passes % 2].get() == np.cumsum(x, dtype=np.int32)).all()


def jacobi(u: np.ndarray, passes: int, small: float) -> tuple[np.ndarray, int]:
    for done in range(1, passes + 1):
        v = u.copy()
        v[1:-1, 1:-1] = np.float32(0.25) * (((u[1:-1, :-2] + u[1:-1, 2:]) + u[:-2, 1:-1]) + u[2:, 1:-1])
        change = np.abs(v - u).max()
        u = v
        if change <= small:
            return u, done
    return u, passes


@in_place
@few(4)
@given(n=st.integers(3, 24), blocks=st.integers(1, 40), passes=st.integers(1, 60))
def test_jacobi_until_it_settles(
    gpu: gpudisagg.Session, module: gpudisagg.Module, n: int, blocks: int, passes: int
) -> None:
    u = np.random.default_rng(n).random((n, n), dtype=np.float32)
    buffers = [gpu.asarray(u), gpu.zeros((n, n), np.float32)]
    change, taken = gpu.zeros(1, np.float32), gpu.zeros(1, np.int32)
    arguments = (*buffers, n, passes, 0.01, change, taken)
    module["jacobi"].launch(blocks, 32, arguments, cooperative=True)
    expected, count = jacobi(u, passes, 0.01)
    assert int(taken.get()[0]) == count
    assert (buffers[count % 2].get() == expected).all()


@in_place
@pytest.mark.parametrize("blocks", [1, 3, 100])
def test_a_barrier_of_the_programs_own(gpu: gpudisagg.Session, module: gpudisagg.Module, blocks: int) -> None:
    gate, out = gpu.zeros(1, np.uint32), gpu.zeros(blocks, np.int32)
    module["by_hand"].launch(blocks, 64, (gate, out, 20), cooperative=True)
    assert (out.get() == 20).all()


@in_place
def test_arriving_now_and_waiting_later(gpu: gpudisagg.Session, module: gpudisagg.Module) -> None:
    x, out = gpu.zeros(640, np.int32), gpu.zeros(640, np.int32)
    module["arrive"](10, 64, (x, out), cooperative=True)
    assert (out.get() == 1000 + np.arange(640)[::-1]).all()


RUNTIME = r"""
#include <cooperative_groups.h>
extern "C" __global__ void turned(int* x, int* out) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  auto grid = cudaCGGetIntrinsicHandle(cudaCGScopeGrid);
  x[i] = 3 * i;
  cudaError_t said = cudaCGSynchronize(grid, 0);
  out[i] = said == cudaSuccess ? x[n - 1 - i] : -1;
}
"""


@in_place
@pytest.mark.parametrize("blocks", [1, 7])
def test_by_the_functions_of_the_device_runtime_as_numba_does(gpu: gpudisagg.Session, blocks: int) -> None:
    n = 64 * blocks
    x, out = gpu.zeros(n, np.int32), gpu.zeros(n, np.int32)
    turned = gpu.compile(RUNTIME, options=("-rdc=true",))["turned"]
    turned.launch(blocks, 64, (x, out), cooperative=True)
    assert (out.get() == 3 * np.arange(n)[::-1]).all()


def test_two_sessions_at_once(server: str) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        with gpudisagg.connect(server, timeout=PATIENCE) as gpu:
            module = gpu.compile(kernels())
            x = np.random.default_rng(seed).integers(-1000, 1000, 2000, dtype=np.int32)
            for _ in range(10):
                buffers = [gpu.asarray(x), gpu.zeros(2000, np.int32)]
                module["prefix"].launch(32, 64, (*buffers, 2000), cooperative=True)
                if (buffers[1].get() != np.cumsum(x, dtype=np.int32)).any():
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong


@in_place
def test_more_blocks_than_can_run_at_once_are_refused(
    gpu: gpudisagg.Session, module: gpudisagg.Module
) -> None:
    kernel = module["by_hand"]
    most = kernel.max_cooperative_blocks
    arrays = gpu.zeros(1, np.uint32), gpu.zeros(most + 1, np.int32)
    kernel.launch(most, 1, (*arrays, 1), cooperative=True)
    assert arrays[1].get().sum() == most
    with pytest.raises(gpudisagg.InvalidCommand, match=f"{most + 1} blocks; at most {most} can run"):
        kernel.launch((most + 1, 1), 1, (*arrays, 1), cooperative=True)
    gpu.synchronize()  # nothing was sent


@in_place_alone
def test_a_grid_that_is_not_all_there_cannot_meet(lonely_server: str) -> None:
    source = """#include <cooperative_groups.h>
    extern "C" __global__ void meet(int* x) {
      if (x[0] == 5) cooperative_groups::this_grid().sync();
      x[1] = cooperative_groups::this_grid().is_valid();
      if (x[0] == 0) cooperative_groups::this_grid().sync();
    }"""
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:
        x = gpu.full(2, 9, np.int32)
        kernel = gpu.compile(source)["meet"]
        kernel[2, 32](x)
        assert x.get().tolist() == [9, 0]
        x[0].fill(0)
        kernel[2, 32](x)
        with pytest.raises(gpudisagg.DeviceFault) as caught:
            gpu.synchronize()
    said = caught.value.reason
    assert re.search(r"inlined at line 5, trap at line \d+ of the PTX; thread \(0, 0, 0\) of block", said)
    assert said.endswith("the kernel synchronises its grid: launch it with cooperative=True")


@in_place_alone
@pytest.mark.parametrize("check", [False, True])
def test_a_fault_of_one_block_ends_the_others(lonely_server: str, check: bool) -> None:
    with gpudisagg.connect(lonely_server, timeout=PATIENCE, check=check) as gpu:
        kernel = gpu.compile(kernels())["stumble"]
        kernel.launch(20, 32, (gpu.zeros(1, np.int32), 7 * 32), cooperative=True)
        with pytest.raises(gpudisagg.DeviceFault) as caught:
            gpu.synchronize()
    assert caught.value.block == (7, 0, 0)
    assert re.search(r"block \(7, 0, 0\)", caught.value.reason)


@in_place_alone
def test_what_waits_for_ever_ends_with_its_session(lonely_server: str) -> None:
    with (
        pytest.raises(gpudisagg.DeadlineExceeded),
        gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu,
    ):
        module = gpu.compile(kernels())
        module["forever"].launch(8, 32, (gpu.zeros(1, np.int32),), cooperative=True)
        gpu.synchronize(timeout=0.5)
    with gpudisagg.connect(lonely_server, timeout=PATIENCE) as gpu:  # the worker's, or the next one's
        assert gpu.zeros(4, np.int32).get().tolist() == [0] * 4
