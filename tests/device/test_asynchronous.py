"""Asynchronous copies and the barriers in shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import CompileError, KernelCode
from tests.device.elementwise import HEADER, elementwise
from tests.device.harness import compiler, launch, load_file


def kernel(name: str) -> KernelCode:
    return load_file("asynchronous.cu").kernels[name]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 5, 32, 33, 64]), st.integers(0, 1100))
def test_a_pipeline_of_copies(block: int, n: int) -> None:
    x = np.arange(1, n + 1, dtype=np.float32)
    out = np.full(block, -1, np.float32)
    launch(kernel("piped"), 1, block, x if n else np.zeros(1, np.float32), out, np.int32(n))
    size = 4 * block
    tiles = np.zeros((-(-n // size), size), np.float32)
    tiles.ravel()[:n] = x
    want = np.zeros(block, np.float32)
    for tile in tiles:
        for i in range(4):
            want += tile[(4 * np.arange(block) + 4 + i) % size] * np.float32(i + 1)
    np.testing.assert_array_equal(out, want)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([2, 32, 64, 128]), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_barriers_of_producers_and_consumers(block: int, rounds: int, seed: int) -> None:
    half = block // 2
    x = np.random.default_rng(seed).integers(0, 100, (max(rounds, 1), half)).astype(np.int32)
    out = np.full(block, -1, np.int32)
    launch(kernel("handed_over"), 1, block, x, out, np.int32(rounds))
    want = np.zeros(half, np.int32)
    for row in x[:rounds]:
        want = want * np.int32(3) + row[::-1]
    np.testing.assert_array_equal(out, np.concatenate([np.zeros(half, np.int32), want]))


ADDRESS = ".shared .align 16 .b8 sh[16]; mov.u32 %r8, sh;"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1000), st.lists(st.integers(1, 5), max_size=12), st.integers(0, 3))
def test_phases_end_when_all_have_arrived(expected: int, arrivals: list[int], drops: int) -> None:
    """What test_wait says of each phase, and the pending count, after some arrivals of one thread."""
    body = [ADDRESS, f"mbarrier.init.shared.b64 [%r8], {expected};", "mov.u32 %r10, 0;"]
    need, pending, phase = expected, expected, 0
    steps = [("arrive", min(n, expected)) for n in arrivals] + [("arrive_drop", 1)] * drops
    done = []
    for kind, n in steps:
        if n > pending or (kind == "arrive_drop" and need == 1):
            continue
        body.append(f"mbarrier.{kind}.shared.b64 %rd8, [%r8], {n};")
        done.append(kind)
        pending -= n
        need -= n if kind == "arrive_drop" else 0
        if pending == 0:
            phase, pending = phase + 1, need
    body.append("mbarrier.arrive.noComplete.shared.b64 %rd9, [%r8], 0; mbarrier.pending_count.b64 %r9, %rd9;")
    # The parity of the phase before: it is over.
    body.append(
        f"mbarrier.test_wait.parity.shared.b64 %p1, [%r8], {(phase + 1) & 1}; selp.u32 %r10, 1, 0, %p1;"
    )
    body.append("shl.b32 %r9, %r9, 1; or.b32 %out, %r9, %r10; add.u32 %out, %out, %a;")
    out = elementwise("\n".join(body), [np.zeros(1, np.uint32)], np.uint32)
    assert out[0] == pending << 1 | 1


def test_bytes_keep_a_phase_open() -> None:
    body = f"""{ADDRESS} mbarrier.init.shared.b64 [%r8], 1;
    mbarrier.arrive.expect_tx.shared.b64 %rd8, [%r8], %a;
    ld.shared.u64 %rd9, [%r8]; shr.u64 %rd9, %rd9, 63; cvt.u32.u64 %r9, %rd9;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r8], %a;
    mbarrier.try_wait.shared.b64 %p1, [%r8], %rd8; selp.u32 %r10, 1, 0, %p1;
    shl.b32 %r9, %r9, 1; or.b32 %out, %r9, %r10;"""
    out = elementwise(body, [np.array([1, 16, 1 << 19], np.uint32)], np.uint32)
    assert out.tolist() == [1, 1, 1]


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize(("kind", "dtype"), [("f32", np.float32), ("f16", np.float16)])
def test_vectors_of_atomics(kind: str, dtype: type, width: int) -> None:
    letter, flag = ("f", "") if kind == "f32" else ("h", ".noftz")
    olds = ", ".join(f"%{letter}{i}" for i in range(width))
    news = ", ".join(f"%{letter}{4 + i}" for i in range(width))
    size = np.dtype(dtype).itemsize
    lines = [HEADER, ".visible .entry k(.param .u64 x, .param .u64 old) {"]
    lines += [".reg .b64 %d<4>; .reg .b16 %h<8>; .reg .f32 %f<8>; .reg .b32 %r<2>;"]
    lines += ["ld.param.u64 %d0, [x]; ld.param.u64 %d1, [old]; mov.u32 %r0, %tid.x;"]
    lines += [f"mad.wide.u32 %d1, %r0, {width * size}, %d1; cvt.rn.{kind}.u32 %{letter}4, %r0;"]
    move = "mov.f32" if kind == "f32" else "mov.b16"
    lines += [f"{move} %{letter}{4 + i}, %{letter}4;" for i in range(1, width)]
    lines += [f"atom.global.v{width}.{kind}.add{flag} {{{olds}}}, [%d0], {{{news}}};"]
    lines += [f"red.global.v{width}.{kind}.max{flag} [%d0], {{{news}}};"] if kind == "f16" else []
    store = "f32" if kind == "f32" else "b16"
    lines += [f"st.global.v{width}.{store} [%d1], {{{olds}}}; ret; }}"]
    module = compiler().load("\n".join(lines).encode())
    x, old = np.arange(width).astype(dtype), np.zeros((20, width), dtype)
    try:
        launch(module.kernels["k"], 1, 20, x, old)
    finally:
        module.close()
    np.testing.assert_array_equal(x, np.arange(width) + 190)
    np.testing.assert_array_equal(
        np.sort(old, 0), np.arange(width) + np.cumsum(np.arange(20) - 0)[:, None] - np.arange(20)[:, None]
    )


@pytest.mark.parametrize(
    "text",
    [
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d1], %r2, [%r3];",
        "cp.async.bulk.commit_group;",
        "cp.async.bulk.wait_group.read 0;",
        "cp.async.bulk.prefetch.L2.global [%d1], %r2;",
    ],
)
def test_bulk_copies_are_refused_by_name(text: str) -> None:
    source = HEADER + ".entry k() {\n.reg .b32 %r<4>; .reg .b64 %d<4>;\n" + text + "\nret; }"
    with pytest.raises(CompileError, match=r"cp\.async\.bulk.*9\.0") as caught:
        compiler().load(source.encode())
    assert caught.value.line == 6


WIDE = (
    HEADER
    + """
.visible .entry k(.param .u64 x, .param .u64 old) {
.reg .b64 %d<9>; .reg .b32 %r<2>; .reg .b128 %q<4>; .reg .pred %p<2>;
ld.param.u64 %d0, [x]; ld.param.u64 %d1, [old]; mov.u32 %r0, %tid.x; mad.wide.u32 %d1, %r0, 16, %d1;
cvt.u64.u32 %d2, %r0; add.u64 %d3, %d2, 100; mov.b128 %q0, {%d2, %d3};
atom.global.exch.b128 %q1, [%d0], %q0; st.global.b128 [%d1], %q1;
AGAIN: ld.global.b128 %q2, [%d0+16]; mov.b128 {%d4, %d5}, %q2; add.u64 %d6, %d4, 1; sub.u64 %d7, %d5, 2;
mov.b128 %q3, {%d6, %d7}; atom.global.cas.b128 %q1, [%d0+16], %q2, %q3; mov.b128 {%d6, %d7}, %q1;
setp.ne.u64 %p0, %d6, %d4; @%p0 bra AGAIN; ret; }
"""
)


def test_atomics_of_128_bits() -> None:
    x = np.array([[7, 8], [1000, 1000]], np.uint64)
    raw = np.zeros(2 * 41 + 2, np.uint64)
    start = -raw.ctypes.data % 16 // 8
    old = raw[start : start + 80].reshape(40, 2)
    place = np.zeros(8, np.uint64)
    at = -place.ctypes.data % 16 // 8
    here = place[at : at + 4].reshape(2, 2)
    here[:] = x
    module = compiler().load(WIDE.encode())
    try:
        launch(module.kernels["k"], 1, 40, here, old)
    finally:
        module.close()
    seen = sorted(map(tuple, [*old.tolist(), here[0].tolist()]))
    assert seen == sorted([(7, 8), *((t, t + 100) for t in range(40))])
    assert here[1].tolist() == [1040, 920]
