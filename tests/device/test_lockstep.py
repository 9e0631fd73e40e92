"""Lanes in lockstep do what a textbook interpreter does, whatever parts them."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode, nvrtc
from gpudisagg.device.cpu.models import lockstep_plan, scatters
from gpudisagg.device.cpu.parser import parse
from tests.device.harness import KERNELS, compiler, launch, load_file
from tests.device.warp_programs import CELLS, VARIABLES, Reference, Statement, programs, to_ptx

MAP_NORESERVE = 0x4000

shapes = st.sampled_from(
    [(1, 1, 1), (32, 1, 1), (33, 1, 1), (64, 1, 1), (100, 1, 1), (16, 4, 1), (5, 7, 3), (8, 2, 5), (48, 2, 1)]
)


def check(program: list[Statement], shape: tuple[int, int, int], seed: int, *, tracked: bool) -> None:
    text = to_ptx(program, tracked=tracked).encode()
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    values = rng.integers(0, 2**32, (n, VARIABLES), dtype=np.uint32)
    values[:, 1] &= 7
    table = rng.integers(0, 2**32, 64, dtype=np.uint32)
    out, sums = np.zeros_like(values), np.zeros(CELLS, np.uint32)
    reference = Reference(values, table)
    reference.run(program)
    module = compiler().load(text)
    try:
        launch(module.kernels["k"], 1, shape, values, table, out, sums)
    finally:
        module.close()
    np.testing.assert_array_equal(sums, reference.sums["global"])
    np.testing.assert_array_equal(out, reference.v.T)


@settings(max_examples=20, deadline=None)
@given(programs, shapes, st.integers(0, 2**32 - 1), st.booleans())
def test_random_programs(
    program: list[Statement], shape: tuple[int, int, int], seed: int, tracked: bool
) -> None:
    assert lockstep_plan(parse(to_ptx(program, tracked=tracked).encode()).functions["k"]) is not None
    check(program, shape, seed, tracked=tracked)


def kernel(name: str) -> KernelCode:
    return load_file("lockstep.cu").kernels[name]


def in_lockstep(file: str, name: str) -> bool:
    text = nvrtc.compile_to_ptx((KERNELS / file).read_bytes(), options=(), name=file)
    return lockstep_plan(parse(text).functions[name]) is not None


def test_which_kernels_run_in_lockstep() -> None:
    for file, name in [("matmul.cu", "matmul"), ("softmax.cu", "softmax"), ("reduce.cu", "reduce")]:
        assert in_lockstep(file, name)
    assert in_lockstep("histogram.cu", "histogram") and in_lockstep("block.cu", "divergent")
    assert in_lockstep("lockstep.cu", "handover") and in_lockstep("lockstep.cu", "leaving")
    assert not in_lockstep("lockstep.cu", "locked")


@pytest.mark.parametrize("first", [0, 1])
def test_two_sides_of_a_branch_meet_at_two_warp_barriers(first: int) -> None:
    x, out = np.arange(100, 132, dtype=np.uint32), np.zeros(32, np.uint32)
    launch(kernel("handover"), 1, 32, x, out, np.int32(first))
    lanes = np.arange(32)
    np.testing.assert_array_equal(out, np.where((lanes < 16) == first, 1, 100 + lanes % 16))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 31, 32, 33, 100, 256]), st.integers(0, 2**32 - 1))
def test_loops_with_trip_counts_of_each_lane(n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, 2 * n, dtype=np.uint32)
    out = np.zeros(2 * n, np.uint32)
    launch(kernel("nested"), 2, n, x, out)
    for t, value in enumerate(x.tolist()):
        total = 0
        for i in range(value & 7):
            for j in range((value >> 3 & 3) + i):
                if (i + j + t) % 3:
                    total += j + 1
                    if total > 40:
                        break
            total ^= i
        assert out[t] == total


@pytest.mark.parametrize("n", [1, 5, 33, 64, 100, 256])
def test_threads_leave_and_the_rest_meet(n: int) -> None:
    out = np.zeros(n, np.uint32)
    launch(kernel("leaving"), 1, n, out)
    t = np.arange(n)
    want = np.zeros(n, np.uint32)
    there = np.ones(n, bool)
    for turn in range(5):
        leaves = there & (t % 5 == 4 - turn) & (turn < 4)
        want[leaves] += 1000 * turn
        there &= ~leaves
        want[there] += np.uint32(there.sum())
    np.testing.assert_array_equal(out, want)


def test_lanes_take_a_lock_in_turn() -> None:
    lock, total = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    launch(kernel("locked"), 1, 70, lock, total)
    assert total[0] == sum(range(70)) and lock[0] == 0


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["u1", "u2", "u4", "f8"]),
    st.sampled_from([(32, 1), (16, 16), (8, 8), (33, 2), (64, 2), (5, 5), (16, 3), (100, 1)]),
    st.data(),
)
def test_addresses_of_every_kind(kind: str, block: tuple[int, int], data: st.DataObject) -> None:
    n = block[0] * block[1]
    some = data.draw(st.integers(0, n - 1))
    stride = data.draw(st.integers(0, 5))
    x = (np.arange(n) * 3 % 101).astype(kind)
    out = np.zeros((5, n), kind)
    launch(kernel(f"copies{8 * x.itemsize}"), 1, block, x, out, np.int32(some), np.int32(stride))
    t = np.arange(n)
    rows = t // block[0]
    np.testing.assert_array_equal(out[0], x[::-1])
    np.testing.assert_array_equal(out[1], x[t * stride % n])
    np.testing.assert_array_equal(out[2], x[rows * block[0]])
    np.testing.assert_array_equal(out[3], np.where(t < some, x + x[some], 0).astype(kind))
    np.testing.assert_array_equal(out[4], rows)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([1, 32, 100, 256]), st.integers(1, 600))
def test_vectors_of_every_lane(block: int, n: int) -> None:
    x = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    y = np.arange(2 * n, dtype=np.int16).reshape(n, 2)
    out, z = np.zeros_like(x), np.zeros_like(y)
    launch(kernel("vectors"), -(-n // block), block, x, out, y, z, np.int32(n))
    np.testing.assert_array_equal(out, x[::-1, ::-1])
    np.testing.assert_array_equal(z, y[:, ::-1])


def test_volatile_memory_is_shared_by_the_lanes() -> None:
    x, out = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    launch(kernel("warp_tree"), 1, 32, x, out)
    assert (out == x.sum()).all()


def test_blocks_wait_for_the_one_before() -> None:
    x = np.arange(1, 21, dtype=np.uint32)
    state, out = np.zeros(20, np.uint32), np.zeros(20, np.uint32)
    launch(kernel("chained"), 20, 32, x, state, out)
    np.testing.assert_array_equal(state, 1 + np.cumsum(x))
    np.testing.assert_array_equal(out, np.concatenate([[1], 1 + np.cumsum(x)[:-1]]))


WRAPPING = """typedef unsigned char Byte;
extern "C" __global__ void wrapping(const Byte *middle, const Byte *begin, unsigned *out, unsigned start) {
  unsigned t = threadIdx.x + start;
  __syncwarp();
  out[threadIdx.x] = middle[(int)t] << 8 | begin[t + 0x80000000u];
}"""


@settings(max_examples=20, deadline=None)
@given(st.integers(-40, 40))
def test_indices_that_wrap_on_their_way_to_an_address(before: int) -> None:
    half = 1 << 31
    # Given back when nothing refers to it any more.
    memory = mmap.mmap(-1, 2 * half, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    x = np.frombuffer(memory, np.uint8)
    ends = np.arange(1, 101, dtype=np.uint8)
    x[-100:], x[:100] = ends, ends + 100
    start, out = half + before, np.zeros(32, np.uint32)
    module = compiler().load(WRAPPING.encode())
    try:
        begin = np.uint64(x.ctypes.data)
        middle = np.uint64(x.ctypes.data + half)
        launch(module.kernels["wrapping"], 1, 32, middle, begin, out, np.uint32(start))
    finally:
        module.close()
    cells = x[(start + half + np.arange(32)) % (2 * half)].astype(int)
    want = cells << 8 | cells
    assert out.tolist() == want.tolist()


PACKETS = """extern "C" __global__ void packets(const float4 *x, const int *where, float4 *out, int n) {
  __shared__ float4 sum[8][32];
  int t = threadIdx.x;
  for (int k = 0; k < 8; k++) sum[k][t] = make_float4(0, 0, 0, 0);
  for (int i = t; i < n; i += 32) {
    float4 &s = sum[where[i]][t];
    s.x += x[i].x; s.y += x[i].y; s.z += x[i].z; s.w += x[i].w;
  }
  __syncthreads();
  if (t < 8) {
    float4 all = make_float4(0, 0, 0, 0);
    for (int j = 0; j < 32; j++) {
      float4 s = sum[t][j];
      all.x += s.x; all.y += s.y; all.z += s.z; all.w += s.w;
    }
    out[t] = all;
  }
}"""


@pytest.mark.parametrize("n", [0, 1, 100, 1000])
def test_packets_stored_where_data_says_are_left_to_threads_of_their_own(n: int) -> None:
    ptx = nvrtc.compile_to_ptx(PACKETS.encode(), options=(), name="packets")
    plan = lockstep_plan(parse(ptx).functions["packets"])
    assert plan is not None and scatters(plan)
    rng = np.random.default_rng(n)
    x, where = rng.integers(0, 8, (n, 4)).astype(np.float32), rng.integers(0, 8, n).astype(np.int32)
    out = np.zeros((8, 4), np.float32)
    module = compiler().load(ptx)
    try:
        launch(module.kernels["packets"], 1, 32, x, where, out, np.int32(n))
    finally:
        module.close()
    np.testing.assert_array_equal(out, [x[where == k].sum(0) for k in range(8)])


def test_a_tiled_kernel_stays_in_lockstep() -> None:
    ptx = nvrtc.compile_to_ptx((KERNELS / "matmul.cu").read_bytes(), options=(), name="matmul")
    plan = lockstep_plan(parse(ptx).functions["matmul"])
    assert plan is not None and not scatters(plan)
