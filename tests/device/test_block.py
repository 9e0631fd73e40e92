"""Threads of a block together: barriers, warp operations, atomics, calls, memory spaces."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device.elementwise import HEADER, Array
from tests.device.harness import Launch, compiler, launch, load_file

few = settings(max_examples=15, deadline=None)


def run(name: str, threads: int, *arguments: object, dynamic_shared: int = 0) -> None:
    launch(load_file("block.cu").kernels[name], 1, threads, *arguments, dynamic_shared=dynamic_shared)


@few
@given(st.sampled_from([32, 64, 96]), st.sampled_from([2, 4, 8, 16, 32]), st.integers(0, 2**32 - 1))
def test_shuffles(n: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    out = np.zeros((4, n), np.uint32)
    run("shuffles", n, x, out, np.int32(width))
    t = np.arange(n)
    base, inner = t - t % width, t % width
    up, down, across = inner - 2, inner + 5, inner ^ 1
    np.testing.assert_array_equal(out[0], x[base + (t + 3) % width])
    np.testing.assert_array_equal(out[1], x[np.where(up >= 0, base + up, t)])
    np.testing.assert_array_equal(out[2], x[np.where(down < width, base + down, t)])
    np.testing.assert_array_equal(out[3], x[base + across])


@few
@given(st.sampled_from([32, 64, 33, 7]), st.integers(0, 2**32 - 1))
def test_votes_matches_and_reductions(n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 8, n, dtype=np.uint32)
    out = np.zeros((6, n), np.uint32)
    run("votes", n, x, out)
    for start in range(0, n, 32):
        warp, got = x[start : start + 32], out[:, start : start + 32]
        bits = 1 << np.arange(len(warp), dtype=np.uint64)
        assert (got[0] == bits[warp & 1 == 1].sum()).all()
        assert (got[1] == (warp == 3).any()).all() and got[2].all()
        np.testing.assert_array_equal(got[3], [bits[warp == v].sum() for v in warp])
        assert (got[4] == warp.sum()).all() and (got[5] == warp.max()).all()


def test_lanes_of_different_masks_dont_mix() -> None:
    out = np.zeros(64, np.uint32)
    run("divergent", 64, out)
    for start in (0, 32):
        v = np.arange(start, start + 32)
        low = v[:16].copy()
        for i in range(3):
            low = low + low[np.arange(16) ^ 1 << i]
        mixed = np.concatenate([low, np.full(16, start + 31)])
        np.testing.assert_array_equal(out[start : start + 32], mixed[np.arange(32) ^ 16])


def test_active_mask_is_of_the_branch() -> None:
    out = np.zeros(40, np.uint32)
    run("active", 40, out)
    first = sum(1 << i for i in range(0, 32, 3))
    second = sum(1 << i - 32 for i in range(33, 40, 3))
    t = np.arange(40)
    np.testing.assert_array_equal(out, np.where(t % 3 == 0, np.where(t < 32, first, second), 0))


@few
@given(st.lists(st.integers(0, 1), min_size=1, max_size=100))
def test_barrier_reductions(values: list[int]) -> None:
    x, n = np.array(values, np.int32), len(values)
    out = np.zeros((3, n), np.int32)
    run("counts", n, x, out)
    assert (out[0] == x.sum()).all() and (out[1] == x.all()).all() and (out[2] == x.any()).all()


@pytest.mark.parametrize("keep", [1, 31, 40, 64])
def test_barriers_dont_wait_for_exited_threads(keep: int) -> None:
    out = np.zeros(64, np.int32)
    run("early", 64, out, np.int32(keep))
    np.testing.assert_array_equal(out, np.where(np.arange(64) < keep, keep, 0))


def test_device_functions() -> None:
    out = np.zeros(40, np.int32)
    run("calls", 40, out)
    fibonacci = [0, 1]
    while len(fibonacci) < 15:
        fibonacci.append(sum(fibonacci[-2:]))
    np.testing.assert_array_equal(out, [fibonacci[i % 15] for i in range(40)])
    sums = np.zeros(40, np.float32)
    run("waiting_calls", 40, sums, dynamic_shared=160)
    assert (sums == 40 * sum(range(40))).all()


def test_local_arrays_are_each_threads_own() -> None:
    out = np.zeros(64, np.int32)
    run("local_array", 64, out, np.int32(64))
    for t in range(64):
        stack = {(i * 7 + t) % 64: i + t for i in range(64)}
        assert out[t] == sum(stack.values()) + stack[t % 64]


def test_generic_addresses_know_their_space() -> None:
    out, cell = np.zeros(9, np.int32), np.zeros(1, np.int32)
    run("spaces", 9, out, cell)
    np.testing.assert_array_equal(out, [1 + 8, 2 + 16, 4 + 8] * 3)
    assert cell[0] == 1


@few
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 5)] * 3), st.data())
def test_indices_over_any_split_of_the_blocks(
    grid: tuple[int, int, int], block: tuple[int, int, int], data: st.DataObject
) -> None:
    blocks, threads = int(np.prod(grid)), int(np.prod(block))
    out = np.zeros(blocks * threads, np.uint32)
    once = Launch(load_file("block.cu").kernels["indices"], grid, block, [out])
    cut = data.draw(st.integers(0, blocks))
    once.run(cut, blocks - cut)
    once.run(0, cut)
    t = np.arange(blocks * threads)
    np.testing.assert_array_equal(out, t // threads * 10000 + t % threads)


def test_atomics_in_both_memories() -> None:
    cells, old = np.array([10, 1, -9, 3, 4], np.int32), np.zeros(15, np.int32)
    f, d, u = np.zeros(1, np.float32), np.zeros(1), np.array([0, 0, 0, 0, 0xFFFFFFFF], np.uint32)
    run("atomics", 40, cells, old, f, d, u)
    np.testing.assert_array_equal(cells, [7, -3, -3, -3, -3])
    np.testing.assert_array_equal(old, [10, 1, -9, 3, 4] * 2 + [7, -3, -3, -3, -3])
    assert f[0] == 20 and d[0] == 10 and u[0] == 40 % 7 and u[1] == (-40) % 7
    assert u[2] == 0xFFFFFFFF and u[3] == np.bitwise_xor.reduce(np.arange(40)) and u[4] == 0


def ptx(body: str, params: str = ".param .u64 out") -> object:
    text = (
        HEADER + f".entry k({params}) {{ .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>; {body} ret; }}"
    )
    return compiler().load(text.encode()).kernels["k"]


def gather(body: str, threads: int) -> Array:
    """What `body` leaves in %r1, by thread."""
    out = np.zeros(threads, np.uint32)
    store = """mov.u32 %r8, %tid.x; ld.param.u64 %rd8, [out]; mad.wide.u32 %rd8, %r8, 4, %rd8;
    st.global.u32 [%rd8], %r1;"""
    launch(ptx(body + store), 1, threads, out)  # type: ignore[arg-type]
    return out


def test_named_barriers_with_counts() -> None:
    out = gather(
        """.shared .u32 s[2]; mov.u32 %r2, %tid.x; setp.ge.u32 %p1, %r2, 32; @%p1 bra consumer;
        st.shared.u32 [s], 7; bar.arrive 1, 64; mov.u32 %r1, 1; bra end;
        consumer: bar.sync 1, 64; ld.shared.u32 %r1, [s]; end:""",
        64,
    )
    np.testing.assert_array_equal(out, [1] * 32 + [7] * 32)


WAITS_IN_A_LOOP = b"""
extern "C" __global__ void k(int *flag, int *out) {
  __shared__ int word;
  if (threadIdx.x == 0) {
    while (*(volatile int *)flag < (int)blockDim.x / 32 - 1) {
    }
    word = 5;
  } else if (threadIdx.x % 32 == 0) {
    atomicAdd(flag, 1);
  }
  __syncwarp();
  out[threadIdx.x] = threadIdx.x < 32 ? word : 7;
}"""


@pytest.mark.parametrize("warps", [1, 2, 5])
def test_a_warp_waits_for_its_lane_that_waits_in_a_loop(warps: int) -> None:
    flag, out = np.zeros(1, np.int32), np.zeros(32 * warps, np.int32)
    launch(compiler().load(WAITS_IN_A_LOOP).kernels["k"], 1, 32 * warps, flag, out)
    assert out.tolist() == [5] * 32 + [7] * (32 * warps - 32)


def test_indexed_branches() -> None:
    out = gather(
        """mov.u32 %r2, %tid.x; rem.u32 %r2, %r2, 3; ts: .branchtargets a, b, c; brx.idx %r2, ts;
        a: mov.u32 %r1, 10; bra end; b: mov.u32 %r1, 20; bra end; c: mov.u32 %r1, 30; end:""",
        7,
    )
    np.testing.assert_array_equal(out, [10, 20, 30, 10, 20, 30, 10])


def test_special_registers() -> None:
    def get(name: str) -> list[int]:
        return gather(f"mov.u32 %r1, {name};", 70).tolist()

    assert get("%laneid") == [t % 32 for t in range(70)]
    assert get("%warpid") == [t // 32 for t in range(70)]
    assert get("%nwarpid") == [3] * 70
    assert get("%lanemask_lt") == [(1 << t % 32) - 1 for t in range(70)]
    assert get("%lanemask_ge") == [(0xFFFFFFFF << t % 32) & 0xFFFFFFFF for t in range(70)]
    assert get("WARP_SZ") == [32] * 70
    assert get("%ntid.x") == [70] * 70 and get("%ctaid.y") == [0] * 70


@pytest.mark.parametrize("threads", [1, 64])
def test_reserved_shared_memory_is_zero_in_each_block_and_nobody_elses(threads: int) -> None:
    """Where cooperative groups keep their barriers: `threads` are a loop, or wait for one another."""
    wait = "bar.sync 0;" if threads > 1 else ""
    ptx = f"""{HEADER} .visible .entry k(.param .u64 p) {{ .reg .u32 %r<9>; .reg .u64 %rd<4>;
        .shared .align 4 .b8 own[256];
        mov.u32 %r0, %reserved_smem_offset_1;
        mov.u32 %r1, own;
        mov.u32 %r2, %reserved_smem_offset_end;
        mov.u32 %r3, %tid.x;
        shl.b32 %r4, %r3, 2;
        add.u32 %r5, %r1, %r4;
        st.shared.u32 [%r5], -1;
        {wait}
        add.u32 %r5, %r0, %r4;
        ld.shared.u32 %r6, [%r5];
        st.shared.u32 [%r5], 77;
        setp.lt.u32 %p1, %r1, %r2;
        selp.u32 %r7, 1000, 0, %p1;
        add.u32 %r6, %r6, %r7;
        ld.param.u64 %rd0, [p];
        mov.u32 %r8, %ctaid.x;
        mov.u32 %r7, %ntid.x;
        mad.lo.u32 %r8, %r8, %r7, %r3;
        mul.wide.u32 %rd1, %r8, 4;
        add.u64 %rd0, %rd0, %rd1;
        st.global.u32 [%rd0], %r6; }}""".replace(".reg .u64", ".reg .pred %p<2>; .reg .u64", 1)
    out = np.full((3, threads), -1, np.int32)
    launch(compiler().load(ptx.encode()).kernels["k"], 3, threads, out)
    assert (out == 0).all()


def test_predicated_everything() -> None:
    out = gather(
        """mov.u32 %r2, %tid.x; mov.u32 %r1, 0; setp.lt.u32 %p1, %r2, 4; @%p1 mov.u32 %r1, 5;
        @!%p1 add.u32 %r1, %r1, 9; setp.eq.u32 %p2, %r2, 6; @%p2 ret;""",
        8,
    )
    np.testing.assert_array_equal(out, [5, 5, 5, 5, 9, 9, 0, 9])


def test_registers_start_as_zero() -> None:
    assert not gather("@%p3 mov.u32 %r1, 9; add.u32 %r1, %r1, %r5;", 40).any()


def test_indices_wrap_where_they_would_on_a_gpu() -> None:
    """A 32-bit index that overflows inside a vectorised block goes on at the most negative address."""
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    reserve = mmap.mmap(-1, (1 << 32) + 4096, flags=flags)
    window = np.frombuffer(reserve, np.uint8)
    middle = window[1 << 31 :]
    kernel = ptx(
        """.reg .b16 %h; ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [base]; mov.u32 %r2, %tid.x;
        add.s32 %r3, %r1, %r2; cvt.s64.s32 %rd2, %r3; add.s64 %rd3, %rd1, %rd2;
        ld.global.u8 %h, [%rd3]; add.u16 %h, %h, 1; st.global.u8 [%rd3], %h;""",
        ".param .u64 out, .param .u32 base",
    )
    launch(kernel, 1, 256, middle, np.uint32(2**31 - 100))  # type: ignore[arg-type]
    assert middle[2**31 - 100 : 2**31].all() and not middle[2**31 :].any()
    assert window[:156].all() and not window[156:1000].any()
