"""Bits, wide integers, half precision, tiles."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("narrow.cu")
counts = st.integers(1, 150)
Word = np.ndarray


def signed(v: int, bits: int = 32) -> int:
    v &= (1 << bits) - 1
    return v - (1 << bits) if v >> bits - 1 else v


def bit_tools(a: int, b: int) -> list[int]:
    def lanes(v: int, bits: int) -> list[int]:
        return [v >> i & (1 << bits) - 1 for i in range(0, 32, bits)]

    def joined(values: list[int], bits: int) -> int:
        return sum((v & (1 << bits) - 1) << i * bits for i, v in enumerate(values))

    def reverse(v: int, bits: int) -> int:
        return int(f"{v:0{bits}b}"[::-1], 2)

    def divided(p: int, q: int) -> int:
        return abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)

    by = lanes(a, 8) + lanes(b, 8)
    both = b << 32 | a
    sa, sb, wide = signed(a), signed(b), a << 32 | b
    q = signed(b >> 3 | 1)
    four = list(zip(lanes(a, 8), lanes(b, 8), strict=True))
    two = list(zip(lanes(a, 16), lanes(b, 16), strict=True))
    product = a * b & 2**64 - 1
    return [
        a.bit_count(), 32 - a.bit_length(), (a & -a).bit_length(), reverse(a, 32),
            joined([by[i] for i in (2, 4, 1, 5)], 8),
        (both << 7) >> 32, both >> (b & 31), (both << 32) >> 32,
        a * b >> 32, sa * sb >> 32, (a & 0xFFFFFF) * (b & 0xFFFFFF), signed(a, 24) * signed(b, 24),
        abs(sa - sb) + 5, abs(a - b) + 5, (a + b) >> 1, (sa + sb + 1) >> 1,
        sum(signed(p, 8) * signed(r, 8) for p, r in four) + 3, joined([p + r for p, r in four], 8),
        joined([abs(p - r) for p, r in four], 8), joined([0xFFFF * (p > r) for p, r in two], 16),
        joined([max(signed(p, 16), signed(r, 16)) for p, r in two], 16),
        wide.bit_count(), 64 - product.bit_length(), reverse(a << 20 & 2**64 - 1, 64) >> 16,
        ((b << 31) & -(b << 31)).bit_length(), wide * (b << 32 | a) >> 96,
        a // (b | 1), sa - divided(sa, q) * q, sa >> (b & 31), a << (b & 31) | a >> (-b & 31),
    ]  # fmt: skip


@few
@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 40)] * 2), min_size=1, max_size=60))
def test_tools_for_bits(numbers: list[tuple[int, int]]) -> None:
    x, y = np.array(numbers, np.uint32).T.copy()
    out = np.zeros((30, len(x)), np.uint32)
    launch(source["bit_tools"], 1, 64, x, y, out, np.int32(len(x)))
    want = np.array([[v & 0xFFFFFFFF for v in bit_tools(a, b)] for a, b in numbers], np.uint32).T
    np.testing.assert_array_equal(out, want)


words = st.integers(0, 2**64 - 1) | st.integers(0, 5)


@few
@given(st.lists(st.tuples(words, words), min_size=1, max_size=40))
def test_128_bits(numbers: list[tuple[int, int]]) -> None:
    x, y = np.array(numbers, np.uint64).T.copy()
    out = np.zeros((10, 2, len(x)), np.uint64)
    launch(source["wide_integers"], 1, 64, x, y, out, np.int32(len(x)))
    for i, (p, q) in enumerate(numbers):
        a, b = p << 64 | q, p * q
        s = signed(a, 128)
        results = [a + b, a - b, a * b, a // (b | 1), a % (b | 1), a >> (q & 127), a << (p & 127), a ^ ~b,
                   abs(s) // 1000003 * (-1 if s < 0 else 1), int(a < b)]  # fmt: skip
        got = [int(low) | int(high) << 64 for low, high in out[:, :, i]]
        assert got == [r & (1 << 128) - 1 for r in results]


@few
@given(p=st.sampled_from([2**61 - 1, 2**64 - 59, 998244353, 3]), n=counts, seed=seeds)
def test_montgomery_powers(p: int, n: int, seed: int) -> None:
    base, exponent = rng(seed).integers(0, 2**64, (2, n), dtype=np.uint64)
    out = np.zeros(n, np.uint64)
    constants = [p, -pow(p, -1, 2**64) % 2**64, 2**64 % p, 2**128 % p]
    launch(
        source["modular_powers"],
        -(-n // 64),
        64,
        base,
        exponent,
        out,
        *map(np.uint64, constants),
        np.int32(n),
    )
    assert [int(v) for v in out] == [pow(int(b), int(e), p) for b, e in zip(base, exponent, strict=True)]


def toward_zero(x: np.ndarray) -> np.ndarray:
    near = x.astype(np.float16)
    return np.where(abs(near.astype(float)) > abs(x), np.nextafter(near, np.float16(0)), near)


@few
@given(n=counts, seed=seeds)
def test_halves(n: int, seed: int) -> None:
    x, y = rng(seed).uniform(-4, 4, (2, n)).astype(np.float16)
    y[abs(y) < 0.01] = 1
    out, i = np.zeros((28, n), np.float16), np.arange(n)
    launch(source["halves"], -(-n // 64), 64, x, y, out, np.int32(n))
    a, b = x.astype(float), y.astype(float)
    by = (x.astype(np.float32) * np.float32(1.001)).astype(float)
    exact = {0: a + b, 1: a - b, 2: a * b, 3: a / b, 4: a * b + a, 5: np.maximum(a, b),
        6: np.minimum(a, b), 7: -a, 8: abs(a),
             9: np.clip(a + b, 0, 1), 16: np.floor(a), 17: np.rint(a), 18: np.trunc(a), 21: i * 37, 22: by,
             23: (x.view(np.uint16) ^ 1).view(np.float16), 24: np.minimum(a, b), 25: a / 3,
                 26: toward_zero(by)}  # fmt: skip
    near = {10: np.sqrt(abs(a)), 11: np.exp(a), 12: np.log(abs(b)), 13: 1 / b, 14: np.sin(a),
        15: np.cos(a), 19: 2**a, 20: np.tanh(a),
            27: abs(b) ** -0.5}  # fmt: skip
    for index, want in exact.items():
        np.testing.assert_array_equal(out[index], want.astype(np.float16), err_msg=str(index))
    for index, want in near.items():
        np.testing.assert_allclose(out[index], want, 2e-3, 1e-3, err_msg=str(index))


@few
@given(n=counts, seed=seeds)
def test_pairs_of_halves(n: int, seed: int) -> None:
    x, y = rng(seed).integers(-8, 8, (2, n, 2)).astype(np.float16) / np.float16(4)
    out, dots = np.zeros((12, n, 2), np.float16), np.zeros(n, np.float32)
    launch(source["pairs"], -(-n // 64), 64, x, y, out, dots, np.int32(n))
    a, b = x.astype(np.float64), y.astype(np.float64)
    i = np.arange(n)
    want = [a + b, a * b, a * b + a, np.maximum(a, b), a[:, ::-1], np.stack([a[:, 1], b[:, 0]], 1),
        a > b, 2**a,
            np.maximum(a * b + a, 0), np.minimum(a, b), np.stack([i, -i], 1)]  # fmt: skip
    for index, row in enumerate(want):
        np.testing.assert_allclose(out[index], np.array(row, float), 1e-3, err_msg=str(index))
    np.testing.assert_allclose(dots, (a * b).sum(1) + 100 * (a > b).all(1) + (a[:, 0] == b[:, 0]), 1e-5)
    np.testing.assert_array_equal(out[11, 0], a.sum(0))


def brain(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16, as a float."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32)).view(np.float32)


@few
@given(n=counts, seed=seeds)
def test_bfloat16(n: int, seed: int) -> None:
    a, b = brain(rng(seed).uniform(0.1, 4, (2, n)))
    x, y = ((v.view(np.uint32) >> 16).astype(np.uint16) for v in (a, b))
    out, both = np.zeros((10, n), np.uint16), np.zeros((n, 2), np.uint16)
    launch(source["brains"], -(-n // 64), 64, x, y, out, both, np.int32(n))
    got = (out.astype(np.uint32) << 16).view(np.float32)
    want = [a + b, a * b, a.astype(float) * b + a, a / b, np.maximum(a, b), np.exp(a), np.sqrt(b),
        a * np.float32(1.01), -a,
            np.maximum(a, b)]  # fmt: skip
    for index, row in enumerate(want):
        if index == 5:
            np.testing.assert_allclose(got[index], row, 1e-2)
        else:
            # A sum in f64 rounded to f32 first may be one off when it is halfway.
            np.testing.assert_allclose(
                got[index], brain(row), 0 if index in (0, 4, 7, 8, 9) else 2**-7, err_msg=str(index)
            )
    pair = (both.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(pair, np.stack([a * 2 + b, b * 2 + a], 1), 2**-8)


def eighth(bits: np.ndarray, exponent: int, mantissa: int, bias: int) -> np.ndarray:
    sign, e, m = bits >> 7, bits >> mantissa & (1 << exponent) - 1, bits & (1 << mantissa) - 1
    value = np.where(
        e == 0, np.ldexp(m, 1 - bias - mantissa), np.ldexp(m + (1 << mantissa), e - bias - mantissa)
    )
    return np.where(sign == 1, -value, value)


@few
@given(n=counts, seed=seeds)
def test_eight_bit_floats(n: int, seed: int) -> None:
    x = (rng(seed).normal(size=n) * 10.0 ** rng(seed).integers(-4, 4, n)).astype(np.float32)
    e4, e5 = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    b4, b5 = np.zeros(n, np.float32), np.zeros(n, np.float32)
    launch(source["eighths"], -(-n // 64), 64, x, e4, e5, b4, b5, np.int32(n))
    for bits, back, shape, most in ((e4, b4, (4, 3, 7), 448), (e5, b5, (5, 2, 15), 57344)):
        grid = eighth(np.arange(256), *shape)
        grid = np.sort(grid[abs(grid) <= most])
        np.testing.assert_array_equal(back, eighth(bits.astype(int), *shape))
        error = abs(np.clip(x, -most, most).astype(float)[:, None] - grid).min(1)
        np.testing.assert_array_equal(abs(np.clip(x, -most, most).astype(float) - back), error)


@few
@given(n=counts, seed=seeds)
def test_packets(n: int, seed: int) -> None:
    g = rng(seed)
    c = g.integers(-128, 128, (n, 4)).astype(np.int8)
    f, d = g.uniform(-9, 9, (n, 4)).astype(np.float32), g.normal(size=(n, 2))
    s = g.integers(0, 2**16, (n, 2)).astype(np.uint16)
    oc, of, od, os = np.zeros_like(c), np.zeros_like(f), np.zeros_like(d), np.zeros_like(s)
    ou, o3 = np.zeros((n, 2), np.uint64), np.zeros((n, 3), np.int32)
    launch(source["packets"], -(-n // 64), 64, c, f, d, s, oc, of, od, os, ou, o3, np.int32(n))
    np.testing.assert_array_equal(oc, np.stack([c[:, 3], c[:, 2], c[:, 1] + np.int8(1), -c[:, 0]], 1))
    np.testing.assert_array_equal(of, np.stack([f[:, 1], f[:, 0], f[:, 3] + f[:, 2], f[:, 2]], 1))
    np.testing.assert_array_equal(od, d[::-1, ::-1])
    np.testing.assert_array_equal(os, np.stack([s[:, 1] + s[:, 0], s[:, 0]], 1))
    i = np.arange(n, dtype=np.uint64)
    np.testing.assert_array_equal(ou, np.stack([i, ~i], 1))
    np.testing.assert_array_equal(o3, np.stack([i.astype(int), c[:, 0], np.trunc(f[:, 0])], 1))


@few
@given(tiles=st.integers(1, 6), seed=seeds)
def test_copies_in_stages(tiles: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 9, (tiles, 32, 4)).astype(np.float32), np.zeros(32, np.float32)
    launch(source["staged"], 1, 32, x, out, np.int32(tiles))
    np.testing.assert_array_equal(out, (x @ [1, 2, 3, 4]).sum(0)[::-1])


@few
@given(n=counts, seed=seeds)
def test_all_of_constant_memory(n: int, seed: int) -> None:
    table = rng(seed).integers(0, 999, 16384).astype(np.float32)
    ctypes.memmove(source.module.globals["table"].address, table.ctypes.data, table.nbytes)
    index, out = rng(seed).integers(0, 16384, n).astype(np.int32), np.zeros(n, np.float32)
    launch(source["looked_up"], -(-n // 64), 64, index, out, np.int32(n))
    np.testing.assert_array_equal(out, table[index] + table[(index + 1) % 16384])


@few
@given(m=st.integers(1, 3), n=st.integers(1, 5), k=st.integers(1, 3), seed=seeds)
def test_product_on_matrix_units(m: int, n: int, k: int, seed: int) -> None:
    from gpudisagg.device import CompileError

    try:
        kernel = Source("tensor.cu")["wmma_product"]
    except CompileError as error:
        assert "mma.h" in error.log  # it comes with nvcc
        pytest.skip("no mma.h")
    a, b = (
        rng(seed).normal(size=(16 * m, 16 * k)).astype(np.float16),
        rng(seed).normal(size=(16 * n, 16 * k)).astype(np.float16),
    )
    c = np.zeros((16 * m, 16 * n), np.float32)
    launch(kernel, (-(-n // 2), m), 64, a, b, c, *map(np.int32, (16 * m, 16 * n, 16 * k)))
    np.testing.assert_allclose(c, a.astype(float) @ b.T.astype(float) / 2, 1e-4, 1e-4)
