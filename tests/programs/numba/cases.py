"""What each Numba kernel of `kernels.py` must compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import special

from tests.programs.corpus import Cases, Program

Array = npt.NDArray[Any]
case = Cases()
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 1000)
widths = st.sampled_from([1, 32, 50, 64, 128, 256])
NONE_AND_ONE = [(0, 32, 0), (1, 1, 1)]


def unpacked(argument: object) -> list[object]:
    """An argument as Numba passes it: an array field by field, a tuple element by element."""
    if isinstance(argument, np.ndarray):
        sizes = [np.int64(v) for v in (argument.size, argument.itemsize)]
        shape = [np.int64(v) for v in (*argument.shape, *argument.strides)]
        return [np.uint64(0), np.uint64(0), *sizes, np.uint64(argument.ctypes.data), *shape]
    if isinstance(argument, tuple):
        return [field for element in argument for field in unpacked(element)]
    if isinstance(argument, np.complexfloating):
        return [argument.real, argument.imag]
    return [argument]


def run(
    program: Program,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    *arguments: object,
    shared: int = 0,
) -> None:
    fields = [field for argument in arguments for field in unpacked(argument)]
    program.launch(grid, *fields, block=block, shared=shared)


def blocks(n: int, block: int) -> int:
    return max(1, -(-n // block))


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def saxpy(program: Program, n: int, block: int, seed: int) -> None:
    x, y = np.random.default_rng(seed).standard_normal((2, n)).astype("f4")
    want = (np.float64(1.5) * x + y).astype("f4")
    run(program, blocks(n, block), block, np.float32(1.5), x, y)
    np.testing.assert_array_equal(y, want)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def strided_add(program: Program, n: int, block: int, seed: int) -> None:
    data = np.random.default_rng(seed).standard_normal((3, 3 * n + 1))
    x, y, out = data[0, : 3 * n : 3], data[1, 1 : 2 * n + 1 : 2][::-1], data[2, :n]
    want = x + y[::-1]
    run(program, 2, block, x, y, out)
    np.testing.assert_array_equal(out, want)


@case(
    m=st.integers(0, 40), n=st.integers(0, 40), k=st.integers(0, 40), seed=seeds,
    always=[(0, 0, 0, 0), (1, 1, 1, 1), (32, 16, 48, 2), (2, 3, 0, 3)],
)  # fmt: skip
def matmul(program: Program, m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-9, 10, (m, k)).astype("f4"), rng.integers(-9, 10, (k, n)).astype("f4")
    c = np.ones((m, n), "f4")
    run(program, (blocks(n, 16), blocks(m, 16)), (16, 16), a, b, c)
    np.testing.assert_array_equal(c, a @ b)


@case(n=sizes, seed=seeds, always=[(0, 0), (1, 1)])
def block_sum(program: Program, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-1000, 1000, n).astype("f8")
    out = np.zeros(1)
    run(program, blocks(n, 128), 128, x, out)
    assert out[0] == x.sum()


@case(n=st.integers(0, 256), seed=seeds, always=[(0, 0), (1, 1)])
def dynamic_reverse(program: Program, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-1000, 1000, n).astype("i4")
    out = np.zeros_like(x)
    run(program, 1, max(1, n), x, out, shared=4 * n)
    np.testing.assert_array_equal(out, x[::-1])


@case(n=sizes, seed=seeds, always=[(0, 0), (1, 1)])
def scan(program: Program, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-1000, 1000, n).astype("i4")
    grid = blocks(n, 256)
    tiles = np.pad(x, (0, grid * 256 - n)).reshape(grid, 256)
    want = (np.cumsum(tiles, 1) - tiles).ravel()[:n]
    totals = np.zeros(grid, "i4")
    run(program, grid, 256, x, totals)
    np.testing.assert_array_equal(x, want)
    np.testing.assert_array_equal(totals, tiles.sum(1))


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def histogram(program: Program, n: int, block: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, n, dtype="u1")
    out = np.zeros(256, "i4")
    run(program, 2, block, x, out)
    np.testing.assert_array_equal(out, np.bincount(x, minlength=256))


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def atomics(program: Program, n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, words = rng.standard_normal(n), rng.integers(-5000, 5000, n).astype("i4")
    extremes, sums = np.array([-9.0, 9.0, -9.0]), np.zeros(8, "f4")
    bits, swaps = np.array([2**64 - 1, 0, 0, 0], "u8"), np.array([-(2**40), 0, 0, 0])
    run(program, blocks(n, block), block, x, words, extremes, sums, bits, swaps)
    assert extremes.tolist() == [x.max(initial=-9), x.min(initial=9), x.max(initial=-9)]
    np.testing.assert_array_equal(sums, [words[words % 7 == r].sum() for r in range(7)] + [-words.sum()])
    low = (words & 1023).astype("u8")
    assert bits.tolist() == [
        int(np.bitwise_and.reduce(~low)) if n else 2**64 - 1,
        int(np.bitwise_or.reduce(low)), int(np.bitwise_xor.reduce(low)), n,
    ]  # fmt: skip
    assert swaps[0] == (words.max() if n else -(2**40)) and swaps[3] == 5 * (n > 0)
    assert swaps[1] == swaps[2] and (1 <= swaps[1] <= n if n else swaps[1] == 0)


@case(grid=st.integers(1, 6), block=widths, rounds=st.integers(0, 5), always=[(1, 32, 0), (1, 1, 1)])
def spin_lock(program: Program, grid: int, block: int, rounds: int) -> None:
    lock, value = np.zeros(1, "i4"), np.zeros(1, "i4")
    run(program, grid, block, lock, value, np.int32(rounds))
    want = 0
    for _ in range(grid * rounds):
        want = want * 2 % 1000003 + 1
    assert value[0] == want and lock[0] == 0


@case(
    rows=st.integers(0, 30),
    columns=st.integers(0, 30),
    limit=st.integers(0, 60),
    always=[(0, 0, 9), (1, 1, 9)],
)
def mandelbrot(program: Program, rows: int, columns: int, limit: int) -> None:
    image = np.full((rows, columns), -1, "i4")
    run(program, (2, 1), (8, 4), *map(np.float64, (-2.0, 1.0, -1.0, 1.0)), image, np.int32(limit))
    for y in range(rows):
        for x in range(columns):
            c = complex(-2.0 + x * 3.0 / columns, -1.0 + y * 2.0 / rows)
            z, n = 0j, limit
            for i in range(limit):
                z = z * z + c
                if z.real * z.real + z.imag * z.imag >= 4:
                    n = i
                    break
            # z·z is contracted to fused multiply-adds: a point at the very edge may leave a step apart.
            assert image[y, x] == n or abs(abs(z) - 2) < 1e-6 or n > 40


@case(rows=st.integers(0, 30), columns=st.integers(0, 30), seed=seeds, always=[(0, 0, 0), (1, 1, 1)])
def julia(program: Program, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = (rng.uniform(-2, 2, (rows, columns)) + 1j * rng.uniform(-2, 2, (rows, columns))).astype("c8")
    c, out = np.complex64(0.6 + 0.3j), np.full((rows, columns), 255, "u1")
    run(program, (blocks(columns, 8), blocks(rows, 8)), (8, 8), c, z, out)
    v, n, edge = z.astype("c16"), np.zeros(z.shape, int), np.zeros(z.shape, bool)
    for _ in range(100):
        inside = np.abs(v) <= 2
        edge |= np.abs(np.abs(v) - 2) < 1e-3
        v, n = np.where(inside, v * v + c, v), n + inside
    assert ((out == n) | edge).all()


@case(n=st.integers(0, 600), block=widths, seed=seeds, always=NONE_AND_ONE)
def mathematics(program: Program, n: int, block: int, seed: int) -> None:
    a, b = 3 * np.random.default_rng(seed).standard_normal((2, n))
    out = np.zeros((24, n))
    run(program, blocks(n, block), block, a, b, out)
    p = np.abs(a) + 0.25
    want = [
        np.sin(a), np.cos(a), np.tan(a), np.exp(a), np.log(p), p**b, np.arctan2(a, b), np.hypot(a, b),
        special.erf(a), special.gammaln(p), special.gamma(p), np.tanh(a), np.log1p(p), np.expm1(a),
        np.arccosh(1 + p), np.fmod(a, p * 0.1), np.floor(a) + np.ceil(b) * np.copysign(2.0, a), np.sqrt(p),
        np.mod(a, b), np.floor_divide(a, b), np.ldexp(a, 3) + np.frexp(b)[0], np.rint(a) + np.trunc(b),
        special.erfc(a), np.arcsinh(a) + np.arctan(b),
    ]  # fmt: skip
    for row, reference in enumerate(want):
        np.testing.assert_allclose(out[row], reference, rtol=2e-14, atol=2e-15, err_msg=f"row {row}")
    for exact in (15, 16, 17, 19, 20, 21):
        np.testing.assert_array_equal(out[exact], want[exact])


@case(n=st.integers(0, 600), block=widths, seed=seeds, always=NONE_AND_ONE)
def fast_mathematics(program: Program, n: int, block: int, seed: int) -> None:
    x = (2 * np.random.default_rng(seed).standard_normal(n)).astype("f4")
    out = np.zeros((7, n), "f4")
    run(program, blocks(n, block), block, x, out)
    a = x.astype(float)
    want = [
        np.sin(a),
        np.exp(a),
        np.log(abs(a) + 0.5),
        a / (1 + a * a),
        np.sqrt(abs(a)),
        abs(a) ** 1.5,
        np.tanh(a),
    ]
    np.testing.assert_allclose(out, np.reshape(want, (7, n)), rtol=2e-6, atol=1e-6)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def integers(program: Program, n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-(2**31), 2**31, (2, n)) >> rng.integers(0, 32, (2, n))).astype("i4")
    y[y == 0] = 3
    out = np.zeros((10, n), "i8")
    run(program, blocks(n, block), block, x, y, out)
    for i in range(n):
        a, b = int(x[i]), int(y[i])
        bits = a & 0xFFFFFFFF
        assert out[:, i].tolist() == [
            a // b, a % b, bits.bit_count(), 32 - bits.bit_length(), int(f"{bits:032b}"[::-1], 2),
            (bits & -bits).bit_length(), (a << (b & 7)) ^ (a >> (b & 7)), max(a, b), a * b,
            min(int(float((a**3 + 2**63) % 2**64 - 2**63)), 2**63 - 1),  # Numba's power goes through f64
        ]  # fmt: skip


@case(
    rows=st.integers(0, 100),
    columns=st.integers(0, 32),
    seed=seeds,
    always=[(0, 0, 0), (1, 1, 1), (3, 32, 2)],
)
def sort_rows(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-9, 9, (rows, columns)).astype("f4")
    want = np.sort(x, 1)
    run(program, blocks(rows, 32), 32, x, np.int32(columns))
    np.testing.assert_array_equal(x, want)


@case(x=st.lists(st.integers(-2, 15), max_size=70), always=[([],), ([7],)])
def recursion(program: Program, x: list[int]) -> None:
    numbers = [0, 1]
    while len(numbers) < 16:
        numbers.append(numbers[-1] + numbers[-2])
    values = np.array(x, "i8")
    run(program, blocks(len(x), 32), 32, values)
    assert values.tolist() == [v if v < 2 else numbers[v] for v in x]


@case(warps=st.integers(1, 6), seed=seeds, always=[(1, 0)])
def warp(program: Program, warps: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-9, 10, 32 * warps).astype("i4")
    out = np.full((11, x.size), -1, "i4")
    run(program, 1, x.size, x, out)
    for start in range(0, x.size, 32):
        v, got, t = x[start : start + 32], out[:, start : start + 32].copy(), np.arange(32)
        bits = np.uint32(1) << t.astype("u4")
        want = [
            np.full(32, v[3]), v[np.maximum(t - 1, 0)], v[np.where(t + 2 < 32, t + 2, t)], v[t ^ 5],
            np.full(32, bits[v > 0].sum(dtype="u4")).view("i4"), np.full(32, (v == 7).any()),
            np.full(32, (v > -5).all()), np.array([bits[v == w].sum(dtype="u4") for w in v]).view("i4"),
            np.where(v > 0, bits[v > 0].sum(dtype="u4").view("i4"), -1), t + 32, np.full(32, v.sum()),
        ]  # fmt: skip
        np.testing.assert_array_equal(got, np.stack([w.astype("i4") for w in want]))


@case(x=st.lists(st.integers(-9, 9), min_size=1, max_size=130), always=[([1],)])
def votes(program: Program, x: list[int]) -> None:
    values, out = np.array(x, "i4"), np.full((3, len(x)), -1, "i4")
    run(program, 1, len(x), values, out)
    assert (out[0] == (values > 0).sum()).all()
    assert ((out[1] != 0) == (values > -9).all()).all() and ((out[2] != 0) == (values == 9).any()).all()


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def convolve(program: Program, n: int, block: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 99, n + 4).astype("f4")
    out = np.zeros(n, "f4")
    run(program, blocks(n, block), block, x, out)
    taps = np.array([0.25, 0.5, 0.125, 0.0625, 0.0625], "f4")
    np.testing.assert_array_equal(
        out, np.lib.stride_tricks.sliding_window_view(np.append(x, 0), 5)[:n] @ taps
    )


@case(rows=st.integers(0, 40), columns=st.integers(0, 40), seed=seeds, always=[(0, 0, 0), (1, 1, 1)])
def grey(program: Program, rows: int, columns: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3)).astype("u1")
    out = np.zeros((rows, columns), "u1")
    run(program, (blocks(columns, 16), blocks(rows, 8)), (16, 8), image, out)
    np.testing.assert_array_equal(out, (image.astype(int) @ [77, 150, 29] >> 8).astype("u1"))


@case(
    rows=st.integers(0, 50), columns=st.integers(0, 50), seed=seeds, always=[(0, 0, 0), (1, 1, 1), (3, 3, 2)]
)
def jacobi(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 99, (rows, columns)).astype("f8")
    out = np.zeros_like(x)
    run(program, (blocks(columns, 32), blocks(rows, 4)), (32, 4), x, out)
    want = np.zeros_like(x)
    want[1:-1, 1:-1] = 0.25 * (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:])
    np.testing.assert_array_equal(out, want)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def records(program: Program, n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    force = np.zeros(n, np.dtype([("x", "f4"), ("count", "i2"), ("weight", "f8")], align=True))
    force["x"], force["count"] = rng.integers(-99, 99, n), rng.integers(-99, 99, n)
    force["weight"] = rng.standard_normal(n)
    want, counts = force["x"].astype(float) * force["count"] + force["weight"], force["count"] + 1
    out = np.zeros(n)
    run(program, blocks(n, block), block, force, out)
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(force["count"], counts)


def _next(s0: int, s1: int) -> tuple[int, int, int]:
    """Xoroshiro128+: the number, then the state after it."""
    mask = 2**64 - 1

    def turned(x: int, k: int) -> int:
        return (x << k | x >> (64 - k)) & mask

    s1 ^= s0
    return (s0 + (s1 ^ s0)) & mask, turned(s0, 55) ^ s1 ^ (s1 << 14 & mask), turned(s1, 36)


@case(n=st.integers(0, 40), rounds=st.integers(0, 20), seed=seeds, always=[(0, 1, 0), (1, 1, 1)])
def monte_carlo(program: Program, n: int, rounds: int, seed: int) -> None:
    start = np.random.default_rng(seed).integers(1, 2**64, (n, 2), dtype="u8")
    states = start.copy().view([("s0", "u8"), ("s1", "u8")]).reshape(n)
    share, normal = np.zeros(n), np.zeros(n, "f4")
    run(program, blocks(n, 32), 32, states, np.int32(rounds), share, normal)
    for i in range(n):
        s0, s1, inside = int(start[i, 0]), int(start[i, 1]), 0
        for _ in range(rounds):
            x, s0, s1 = _next(s0, s1)
            y, s0, s1 = _next(s0, s1)
            u, v = (x >> 11) * 2.0**-53, (y >> 11) * 2.0**-53
            inside += u * u + v * v <= 1
        x, s0, s1 = _next(s0, s1)
        y, s0, s1 = _next(s0, s1)
        u, v = (np.float32((w >> 11) * 2.0**-53) for w in (x, y))
        assert share[i] == inside and (int(states["s0"][i]), int(states["s1"][i])) == (s0, s1)
        want = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * float(v)) if u else math.inf
        np.testing.assert_allclose(normal[i], want, rtol=1e-5, atol=2e-6)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def weighted(program: Program, n: int, block: int, seed: int) -> None:
    x, y, out = np.random.default_rng(seed).integers(-99, 99, (3, n)).astype("f8")
    run(program, blocks(n, block), block, (x, y, out), tuple(map(np.float64, (0.5, -2.0, 3.25))))
    np.testing.assert_array_equal(out, 0.5 * x - 2 * y + 3.25)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def complexes(program: Program, n: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))
    want, quotient, length, out = x * y + x.conj(), x / y, np.abs(x), np.zeros(n)
    run(program, blocks(n, block), block, x, y, out)
    np.testing.assert_allclose(x, want, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(y, quotient, rtol=1e-14)
    np.testing.assert_allclose(out, length, rtol=1e-15)


@case(n=sizes, block=widths, seed=seeds, always=NONE_AND_ONE)
def black_scholes(program: Program, n: int, block: int, seed: int) -> None:
    price = np.random.default_rng(seed).uniform(5, 200, n)
    out = np.zeros(n)
    run(program, blocks(n, block), block, price, out, np.float64(100.0), np.float64(2.0))
    spread = 0.3 * math.sqrt(2)
    d1 = (np.log(price / 100) + 0.13) / spread
    want = price * special.ndtr(d1) - 100 * math.exp(-0.04) * special.ndtr(d1 - spread)
    np.testing.assert_allclose(out, want, rtol=1e-12, atol=1e-12)


@case(n=st.integers(0, 200), seed=seeds, always=[(0, 0), (1, 1), (64, 2)])
def bodies(program: Program, n: int, seed: int) -> None:
    place = np.random.default_rng(seed).standard_normal((n, 3)).astype("f4")
    force = np.zeros((n, 3), "f4")
    run(program, blocks(n, 64), 64, place, force)
    d = place[None].astype(float) - place[:, None]
    weight = ((d * d).sum(2, keepdims=True) + np.float32(0.01)) ** -1.5
    np.testing.assert_allclose(
        force, (d * weight).sum(1), rtol=1e-5, atol=2e-6 * float((abs(d) * weight).sum(1).max(initial=0))
    )
