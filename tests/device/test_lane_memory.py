"""Loads, stores and short branches of warps of which only some lanes run: each lane gets and changes what is
its own.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import LoadedModule, nvrtc
from gpudisagg.device.cpu.models import gains, lockstep_plan
from gpudisagg.device.cpu.parser import parse
from tests.device.harness import compiler, launch

SOURCE = rb"""
// A row per warp, from any start to any end: neighbours' elements side by side, for the lanes there are.
extern "C" __global__ void rows(const int *ends, const int *in, const double *wide, int *out, double *twice)
{
  int row = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = ends[row] + lane; i < ends[row + 1]; i += 32) {
    out[i] = in[i] * 2 + in[ends[row]];
    twice[i] = wide[i] * 2.0;
  }
  __syncwarp();
}

// Lanes from `first` on, in a loop that they leave one by one.
extern "C" __global__ void middle(const int *in, int *out, int first, int n)
{
  int lane = threadIdx.x % 32;
  if (lane >= first)
    for (int k = 0; k < n - lane; k++) out[lane + 32 * k] = in[lane + 32 * k] + k;
  __syncwarp();
}

// Short sides in a loop: one, the other, both.
extern "C" __global__ void sides(const int *in, int *out, int n)
{
  __shared__ int seen[64];
  int me = threadIdx.x, a = 0, b = 0, c = 0;
  seen[2 * me] = seen[2 * me + 1] = -1;
  #pragma unroll 1
  for (int i = 0; i < n; i++) {
    int v = in[me + 32 * i];
    if (v % 3 == 0) { a += v; seen[2 * me] = v; }
    if (v % 2) { b ^= v; seen[2 * me + 1] = i; } else { c += v - i; seen[2 * me] += 1; }
    __syncwarp();
  }
  out[4 * me] = a; out[4 * me + 1] = b; out[4 * me + 2] = c;
  out[4 * me + 3] = seen[2 * me] * 1000 + seen[2 * me + 1];
}

extern "C" __global__ void own_row(const float *x, float *y, int columns)
{
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0.f;
  for (int i = 0; i < columns; i++) sum += x[row * columns + i];
  y[row] = sum;
}

extern "C" __global__ void own_column(const float *x, float *y, int rows, int columns)
{
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0.f;
  for (int i = 0; i < rows; i++) sum += x[i * columns + column];
  y[column] = sum;
}
"""


@functools.cache
def module() -> LoadedModule:
    return compiler().load(SOURCE, name="lane_memory")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=3, max_size=3))
def test_ragged_rows_are_loaded_and_stored_element_by_element(lengths: list[int]) -> None:
    ends = np.cumsum([5, *lengths]).astype(np.int32)
    n = int(ends[-1]) + 40
    given_, wide = np.arange(n, dtype=np.int32) * 7, np.arange(n) / 3
    got, twice = np.full(n, -1, np.int32), np.full(n, -1.0)
    launch(module().kernels["rows"], 1, 96, ends, given_, wide, got, twice)
    expected, doubled = np.full(n, -1, np.int32), np.full(n, -1.0)
    for begin, end in pairwise(ends):
        expected[begin:end] = given_[begin:end] * 2 + given_[begin]
        doubled[begin:end] = wide[begin:end] * 2
    assert (got == expected).all()
    assert (twice == doubled).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 32), st.integers(0, 40), st.sampled_from([32, 19, 1]))
def test_the_first_lane_need_not_be_among_those_that_run(first: int, n: int, threads: int) -> None:
    given_, got = np.arange(32 * 40, dtype=np.int32), np.full(32 * 40, -1, np.int32)
    launch(module().kernels["middle"], 1, threads, given_, got, np.int32(first), np.int32(n))
    expected = np.full((40, 32), -1, np.int32)
    for lane in range(first, threads):
        for k in range(max(0, n - lane)):
            expected[k, lane] = lane + 32 * k + k
    assert (got == expected.ravel()).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from([32, 13]))
def test_short_sides_of_a_branch_run_for_their_lanes_alone(seed: int, n: int, threads: int) -> None:
    values = np.random.default_rng(seed).integers(0, 100, (max(n, 1), 32)).astype(np.int32)
    got = np.zeros((32, 4), np.int32)
    launch(module().kernels["sides"], 1, threads, values, got, np.int32(n))
    for me in range(threads):
        a = b = c = 0
        first = second = -1
        for i in range(n):
            v = int(values[i, me])
            if v % 3 == 0:
                a, first = a + v, v
            if v % 2:
                b, second = b ^ v, i
            else:
                c, first = c + v - i, first + 1
        assert got[me].tolist() == [a, b, c, first * 1000 + second]


@pytest.mark.parametrize(("kernel", "together"), [("own_row", False), ("own_column", True)])
def test_threads_that_walk_through_rows_of_their_own_run_one_after_the_other(
    kernel: str, together: bool
) -> None:
    plan = lockstep_plan(parse(nvrtc.compile_to_ptx(SOURCE)).functions[kernel])
    assert plan is not None
    assert gains(plan) is together


def test_both_ways_to_walk_give_the_sums() -> None:
    x = np.arange(64 * 48, dtype=np.float32).reshape(64, 48)
    rows, columns = np.zeros(64, np.float32), np.zeros(48, np.float32)
    launch(module().kernels["own_row"], 2, 32, x, rows, np.int32(48))
    launch(module().kernels["own_column"], 1, 48, x, columns, np.int32(64), np.int32(48))
    assert np.allclose(rows, x.sum(1))
    assert np.allclose(columns, x.sum(0))
