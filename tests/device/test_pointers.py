"""Functions and data through pointers: tables, virtual functions, initial values that are addresses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import CompileError, KernelCode
from tests.device.elementwise import HEADER
from tests.device.harness import compiler, launch, load_file


def kernel(name: str) -> KernelCode:
    return load_file("pointers.cu").kernels[name]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 31, 32, 100]), st.integers(0, 2**32 - 1))
def test_functions_of_each_thread_s_own(block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 4, 2 * block).astype(np.int32)
    a, b = rng.integers(-5, 6, (2, 2 * block)).astype(np.int32)
    out = np.zeros_like(a)
    launch(kernel("through_a_table"), 2, block, which, a, b, out)
    power = np.where(b > 0, a.astype(np.int64) ** np.maximum(b, 0), 1)
    np.testing.assert_array_equal(out, np.select([which == 1, which == 2], [a * b, power], a + b))


@pytest.mark.parametrize("which", [0, 1])
def test_functions_that_wait_for_other_threads(which: int) -> None:
    a, b = np.arange(64, dtype=np.int32), np.arange(64, dtype=np.int32)[::-1].copy()
    out = np.zeros_like(a)
    launch(kernel("through_a_table_to_shuffles"), 1, 64, np.int32(which), a, b, out)
    np.testing.assert_array_equal(out, a * b if which else a[np.arange(64) ^ 1] + b)


def test_virtual_functions() -> None:
    x = np.arange(100, dtype=np.int32)
    out = np.zeros_like(x)
    launch(kernel("virtual_functions"), 1, 100, x, out)
    np.testing.assert_array_equal(out, np.where(x & 1, x * x, 3 * x))


def test_initial_values_that_are_addresses() -> None:
    out = np.zeros(3, np.int32)
    launch(kernel("relocated"), 1, 1, out)
    assert out.tolist() == [ord("a") + 22, ord("b") + 80, 42]


BYTES = (
    HEADER
    + """
.global .align 8 .b8 target[8] = {1, 2, 3, 4, 5, 6, 7, 8};
.global .align 8 .b8 packed[20] = {9, 0, 0, 0, 0xFF(target+4), 0xFF00(target+4), 0xFF0000(target+4),
  0xFF000000(target+4), 0xFF00000000(target+4), 0xFF0000000000(target+4), 0xFF000000000000(target+4),
  0xFF00000000000000(target+4), 7};
.visible .entry k(.param .u64 out) {
.reg .b64 %d<4>; .reg .b32 %r<4>;
ld.param.u64 %d0, [out]; mov.u64 %d1, packed; ld.global.u32 %r0, [%d1]; ld.global.u8 %r1, [%d1+12];
ld.global.u32 %r2, [%d1+4]; cvt.u64.u32 %d2, %r2; ld.global.u32 %r2, [%d1+8]; cvt.u64.u32 %d3, %r2;
shl.b64 %d3, %d3, 32; or.b64 %d2, %d2, %d3; ld.global.u32 %r3, [%d2];
st.global.v2.u32 [%d0], {%r0, %r1}; st.global.u32 [%d0+8], %r3; ret; }
"""
)


def test_addresses_byte_by_byte() -> None:
    out = np.zeros(3, np.uint32)
    module = compiler().load(BYTES.encode())
    try:
        launch(module.kernels["k"], 1, 1, out)
    finally:
        module.close()
    assert out.tolist() == [9, 7, 0x08070605]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (".global .b8 x[2] = {0xFF(y), 1};", "part of an address"),
        (".global .b8 x[2] = {0xFE(y), 1};", "one byte"),
        (".extern .func f(); .global .u64 x = f;", "isn't defined"),
    ],
)
def test_what_no_address_can_be(text: str, says: str) -> None:
    with pytest.raises(CompileError, match=says):
        compiler().load(f"{HEADER} .global .u32 y; .entry k() {{ ret; }}\n{text}\n".encode())


STACK = (
    HEADER
    + """
.visible .entry k(.param .u64 sizes, .param .u64 out) {
.reg .b64 %d<9>; .reg .b32 %r<9>; .reg .pred %p<2>;
ld.param.u64 %d0, [sizes]; ld.param.u64 %d1, [out]; mov.u32 %r0, %tid.x;
mad.wide.u32 %d0, %r0, 4, %d0; mad.wide.u32 %d1, %r0, 8, %d1; ld.global.u32 %r1, [%d0];
stacksave.u64 %d2;
mul.wide.u32 %d3, %r1, 4; alloca.u64 %d4, %d3, 16; alloca.u64 %d5, 4; st.local.u32 [%d5], 7;
mov.u32 %r2, 0; mov.u64 %d6, %d4;
L: setp.ge.u32 %p0, %r2, %r1; @%p0 bra M; st.local.u32 [%d6], %r2;
add.u64 %d6, %d6, 4; add.u32 %r2, %r2, 1; bra L;
M: mov.u32 %r3, 0;
N: setp.eq.u32 %p0, %r2, 0; @%p0 bra O; sub.u32 %r2, %r2, 1; sub.u64 %d6, %d6, 4;
ld.u32 %r4, [%d6]; add.u32 %r3, %r3, %r4; bra N;
O: ld.local.u32 %r4, [%d5]; mad.lo.u32 %r3, %r4, 1000000, %r3;
stackrestore.u64 %d2; alloca.u64 %d7, 1, 1; setp.eq.u64 %p0, %d7, %d2; selp.u32 %r5, 1, 0, %p0;
and.b64 %d4, %d4, 15; cvt.u32.u64 %r6, %d4; add.u32 %r5, %r5, %r6;
st.global.v2.u32 [%d1], {%r3, %r5}; ret; }
"""
)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=70))
def test_memory_of_a_call(sizes: list[int]) -> None:
    out = np.zeros((len(sizes), 2), np.uint32)
    module = compiler().load(STACK.encode())
    try:
        launch(module.kernels["k"], 1, len(sizes), np.array(sizes, np.uint32), out)
    finally:
        module.close()
    assert out.tolist() == [[7_000_000 + n * (n - 1) // 2, 1] for n in sizes]
