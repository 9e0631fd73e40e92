"""Fields and positions of bits against their definitions in the ISA manual."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device.elementwise import elementwise

words = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([2**31, 2**31 - 1]))
small = st.one_of(st.integers(0, 40), words)
WORD = (1 << 32) - 1


def columns(rows: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [np.array(column, np.int64).astype(np.uint32) for column in zip(*rows, strict=True)]


def fns(word: int, base: int, offset: int) -> int:
    if offset == 0:
        return base if base < 32 and word >> base & 1 else WORD
    position, count = base, abs(offset) - 1
    while 0 <= position < 32:
        if word >> position & 1:
            if count == 0:
                return position
            count -= 1
        position += 1 if offset > 0 else -1
    return WORD


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words, st.integers(0, 31), st.integers(-33, 33)), min_size=1, max_size=40))
def test_nth_set_bit(rows: list[tuple[int, int, int]]) -> None:
    out = elementwise("fns.b32 %out, %a, %b, %c;", columns(rows), np.uint32)
    assert out.tolist() == [fns(*row) for row in rows]


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
@pytest.mark.parametrize("kind", ["u32", "s32"])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(words, small), min_size=1, max_size=40))
def test_extension_of_the_low_bits(kind: str, mode: str, rows: list[tuple[int, int]]) -> None:
    out = elementwise(f"szext.{mode}.{kind} %out, %a, %b;", columns(rows), np.uint32)
    for got, (a, b) in zip(out.tolist(), rows, strict=True):
        width = b & 31
        if b > 31 and mode == "clamp":
            assert got == a
            continue
        want = a & ((1 << width) - 1)
        if kind == "s32" and width and a >> (width - 1) & 1:
            want |= WORD & ~((1 << width) - 1)
        assert got == want


@pytest.mark.parametrize("operation", ["and", "or", "xor"])
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255), st.lists(st.tuples(words, words, words), min_size=1, max_size=20))
def test_a_table_with_a_predicate(operation: str, table: int, rows: list[tuple[int, int, int]]) -> None:
    body = f"setp.gt.u32 %p2, %a, %b; lop3.{operation}.b32 %r8|%p1, %a, %b, %c, {table}, %p2;"
    body += "selp.u32 %r9, 1, 0, %p1; and.b32 %r8, %r8, -2; or.b32 %out, %r8, %r9;"
    out = elementwise(body, columns(rows), np.uint32)
    for got, (a, b, c) in zip(out.tolist(), rows, strict=True):
        value = sum(
            (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i for i in range(32)
        )
        p, q = value != 0, a > b
        flag = {"and": p & q, "or": p | q, "xor": p ^ q}[operation]
        assert got == value & ~1 | flag


@pytest.mark.parametrize("kind", ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"])
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(small, words, words), min_size=1, max_size=30))
def test_packing_with_saturation(kind: str, rows: list[tuple[int, int, int]]) -> None:
    bits = int(kind[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    text = f"cvt.pack.sat.{kind}.s32 %out, %a, %b;"
    if bits < 16:
        text = f"cvt.pack.sat.{kind}.s32.b32 %out, %a, %b, %c;"
    out = elementwise(text, columns(rows), np.uint32)
    for got, (a, b, c) in zip(out.tolist(), rows, strict=True):
        x, y = (min(max(v - (v >> 31 << 32), low), high) & ((1 << bits) - 1) for v in (a, b))
        want = x << bits | y
        if bits < 16:
            want |= c << 2 * bits & WORD
        assert got == want


def redux(values: np.ndarray, operation: str, flags: str) -> float:
    values = np.abs(values) if "abs" in flags else values
    if np.isnan(values).all() or ("NaN" in flags and np.isnan(values).any()):
        return float("nan")
    return float((np.nanmin if operation == "min" else np.nanmax)(values))


@pytest.mark.parametrize("operation", ["min", "max"])
@pytest.mark.parametrize("flags", ["", ".abs", ".NaN", ".abs.NaN"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(width=32).filter(lambda x: x != 0), min_size=32, max_size=96), st.integers(0, 5))
def test_reduction_of_singles(operation: str, flags: str, values: list[float], some: int) -> None:
    values = values[: len(values) // 32 * 32]
    x = np.array(values, np.float32)
    x[::7] = np.where(np.arange(len(x[::7])) < some, np.float32("nan"), x[::7])
    out = elementwise(f"redux.sync.{operation}{flags}.f32 %out, %a, -1;", [x], np.float32)
    for warp, got in zip(x.reshape(-1, 32), out.reshape(-1, 32), strict=True):
        np.testing.assert_array_equal(got, np.full(32, redux(warp, operation, flags), np.float32))
