"""What each Triton kernel of `generate.py` must compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import special

from tests.programs.corpus import Cases, Program
from tests.programs.triton.generate import VARIANTS

Array = npt.NDArray[Any]
case = Cases()
seeds = st.integers(0, 2**32 - 1)
NONE_AND_ONE = [(0, 0), (1, 1)]


def run(program: Program, grid: int | tuple[int, ...], *arguments: object) -> None:
    """As Triton launches: after the arguments come two pointers to scratch memory, null where it has none."""
    program.launch(grid, *arguments, np.uint64(0), np.uint64(0))


def constant(program: Program, name: str) -> int:
    return int(VARIANTS[program.name].constants[name])


def blocks(n: int, block: int) -> int:
    """As many as cover n; one at least, which then has nothing to do."""
    return max(1, -(-n // block))


def to_bf16(x: Array) -> Array:
    """Round f32 to bf16, to nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> 16 & 1))
    return np.where(np.isnan(x), 0x7FC0, rounded >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@case(
    "add",
    "add_ragged",
    "add_fp16",
    "add_fp64",
    "add_sm90",
    n=st.integers(0, 3000),
    seed=seeds,
    always=NONE_AND_ONE,
)
def add(program: Program, n: int, seed: int) -> None:
    element = VARIANTS[program.name].types.split()[0][1:].replace("fp", "float")
    x, y = np.random.default_rng(seed).standard_normal((2, n + 3)).astype(element)
    out = np.zeros_like(x)
    run(program, blocks(n, constant(program, "BLOCK")), x, y, out, np.int32(n))
    np.testing.assert_array_equal(out[:n], (x + y)[:n])
    assert not out[n:].any()


@case(n=st.integers(0, 3000), seed=seeds, always=NONE_AND_ONE)
def add_bf16(program: Program, n: int, seed: int) -> None:
    x, y = to_bf16(np.random.default_rng(seed).standard_normal((2, n)))
    out = np.zeros_like(x)
    run(program, blocks(n, constant(program, "BLOCK")), x, y, out, np.int32(n))
    np.testing.assert_array_equal(out, to_bf16(from_bf16(x) + from_bf16(y)))


@case(n=st.integers(0, 3000), programs=st.integers(1, 5), seed=seeds, always=[(0, 1, 0), (1, 3, 1)])
def persistent_add(program: Program, n: int, programs: int, seed: int) -> None:
    x, y = np.random.default_rng(seed).standard_normal((2, n)).astype("f4")
    out = np.zeros_like(x)
    run(program, programs, x, y, out, np.int32(n))
    np.testing.assert_array_equal(out, x + y)


@case(n=st.integers(0, 2000), seed=seeds, always=NONE_AND_ONE)
def gelu(program: Program, n: int, seed: int) -> None:
    x = (3 * np.random.default_rng(seed).standard_normal(n)).astype("f2")
    out = np.zeros_like(x)
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.int32(n))
    v = x.astype(float)
    np.testing.assert_allclose(out, 0.5 * v * (1 + special.erf(v / math.sqrt(2))), rtol=6e-4, atol=1e-6)


@case(n=st.integers(0, 1000), seed=seeds, always=NONE_AND_ONE)
def elementary(program: Program, n: int, seed: int) -> None:
    x = (4 * np.random.default_rng(seed).standard_normal(n)).astype("f4")
    out = np.zeros((9, n), "f4")
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.int32(n))
    v = x.astype(float)
    magnitude = np.abs(v)
    want = [
        np.exp(v), np.log(magnitude + 0.5), np.sin(v) * np.cos(v), np.sqrt(magnitude), special.expit(v),
        np.tanh(v), magnitude ** np.float64(np.float32(1.7)), np.arctan2(v, 0.75), np.floor(v) + np.rint(v),
    ]  # fmt: skip
    np.testing.assert_allclose(out, np.reshape(want, (9, n)), rtol=2e-6, atol=3e-7)
    np.testing.assert_array_equal(out[3], np.sqrt(np.abs(x)))


@case(n=st.integers(0, 1000), seed=seeds, always=NONE_AND_ONE)
def integers(program: Program, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-(2**31), 2**31, (2, n), dtype=np.int64).astype("i4") >> rng.integers(0, 31, (2, n))
    x, y = x.astype("i4"), np.where((y == 0) | (y == -1), 1, y).astype("i4")
    out = np.zeros((5, n), "i4")
    run(program, blocks(n, constant(program, "BLOCK")), x, y, out, np.int32(n))
    a, b = x.astype("i8"), y.astype("i8")
    quotient = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    high = (x.view("u4").astype("u8") * y.view("u4").astype("u8")) >> np.uint64(32)
    shift = y & 31
    want = [
        quotient,
        a - quotient * b,
        high,
        (x << shift) ^ (x >> shift),
        np.minimum(np.maximum(x, -1000), y),
    ]
    np.testing.assert_array_equal(
        out, np.reshape([w.astype("u8").astype("u4").view("i4") for w in want], (5, n))
    )


@case(
    "softmax", "softmax_warps8", "softmax_sm90",
    rows=st.integers(0, 6), columns=st.integers(1, 512), programs=st.integers(1, 3), seed=seeds,
    always=[(0, 5, 1, 0), (1, 1, 1, 1), (3, 512, 2, 2)],
)  # fmt: skip
def softmax(program: Program, rows: int, columns: int, programs: int, seed: int) -> None:
    x = (4 * np.random.default_rng(seed).standard_normal((rows, columns + 2))).astype("f4")
    out = np.zeros((rows, columns + 1), "f4")
    sizes = [np.int32(v) for v in (columns + 2, columns + 1, rows, columns)]
    run(program, programs, x, out, *sizes)
    np.testing.assert_allclose(
        out[:, :columns], special.softmax(x[:, :columns].astype(float), axis=1), rtol=3e-6, atol=1e-12
    )
    assert not out[:, columns:].any()


@case(rows=st.integers(1, 4), n=st.integers(1, 700), seed=seeds, always=[(1, 1, 0), (1, 256, 1)])
def layer_norm(program: Program, rows: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n)).astype("f2")
    weight, bias = rng.standard_normal((2, n)).astype("f2")
    out, mean, rstd = np.zeros_like(x), np.zeros(rows, "f4"), np.zeros(rows, "f4")
    run(program, rows, x, out, weight, bias, mean, rstd, np.int32(n), np.int32(n), np.float32(1e-5))
    v = x.astype(float)
    np.testing.assert_allclose(mean, v.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(v.var(1) + 1e-5), rtol=1e-5)
    want = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(out, want, rtol=6e-4, atol=2e-6 * float(np.abs(want).max()) + 1e-6)


@case(rows=st.integers(1, 9), n=st.integers(1, 256), seed=seeds, always=[(1, 1, 0), (9, 256, 1)])
def layer_norm_backward(program: Program, rows: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, rows, n)).astype("f4")
    w = rng.standard_normal(n).astype("f4")
    group = constant(program, "GROUP")
    dx, dw, db, lock = (
        np.zeros_like(x),
        np.zeros((group, n), "f4"),
        np.zeros((group, n), "f4"),
        np.zeros(2 * group, "i4"),
    )
    mean, rstd = x.mean(1), (1 / np.sqrt(x.var(1) + 1e-5)).astype("f4")
    run(program, rows, dx, dy, dw, db, x, w, mean, rstd, lock, np.int32(n), np.int32(n))
    v, g = x.astype(float), dy.astype(float)
    xhat, wdy = (v - mean[:, None]) * rstd[:, None], w * g
    c1, c2 = (xhat * wdy).mean(1, keepdims=True), wdy.mean(1, keepdims=True)
    scale = 1 + np.abs(wdy).max() * rstd.max()
    np.testing.assert_allclose(dx, (wdy - (xhat * c1 + c2)) * rstd[:, None], rtol=1e-5, atol=2e-6 * scale)
    np.testing.assert_allclose(dw.sum(0), (g * xhat).sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(db.sum(0), g.sum(0), rtol=1e-5, atol=1e-5)
    assert not lock[:group].any() and lock[group:].tolist() == [int(i < rows) for i in range(group)]


def _matmul(program: Program, a: Array, b: Array, out: Array) -> None:
    (m, k), n = a.shape, b.shape[1]
    grid = blocks(m, constant(program, "BLOCK_M")) * blocks(n, constant(program, "BLOCK_N"))
    sizes = [np.int32(v) for v in (m, n, k, k, n, n)]
    run(program, grid, a, b, out, *sizes)


shape = {"m": st.integers(1, 80), "n": st.integers(1, 80), "k": st.integers(0, 80), "seed": seeds}
SHAPES = [(1, 1, 1, 0), (3, 2, 0, 1), (64, 64, 64, 2)]


@case(**shape, always=SHAPES)
def matmul_fp16(program: Program, m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype("f2"), rng.standard_normal((k, n)).astype("f2")
    out = np.ones((m, n), "f2")
    _matmul(program, a, b, out)
    a, b = a.astype(float), b.astype(float)
    np.testing.assert_allclose(out, a @ b, rtol=5.2e-4, atol=1e-6 * float(1 + (abs(a) @ abs(b)).max()))


@case(**shape, always=SHAPES)
def matmul_bf16(program: Program, m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = to_bf16(rng.standard_normal((m, k))), to_bf16(rng.standard_normal((k, n)))
    out = np.ones((m, n), "f4")
    _matmul(program, a, b, out)
    a, b = from_bf16(a).astype(float), from_bf16(b).astype(float)
    np.testing.assert_allclose(out, a @ b, rtol=1e-6, atol=1e-6 * float(1 + (abs(a) @ abs(b)).max()))


@case(**shape, always=SHAPES)
def matmul_tf32(program: Program, m: int, n: int, k: int, seed: int) -> None:
    """Triton gives the tensor core whole f32, of which it sees the upper 19 bits."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    out = np.ones((m, n), "f4")
    _matmul(program, a, b, out)
    a, b = ((v.view("u4") & 0xFFFFE000).view("f4").astype(float) for v in (a, b))
    np.testing.assert_allclose(out, a @ b, rtol=1e-6, atol=1e-6 * float(1 + (abs(a) @ abs(b)).max()))


@case(**shape, always=SHAPES)
def matmul_ieee(program: Program, m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    out = np.ones((m, n), "f4")
    _matmul(program, a, b, out)
    a, b = a.astype(float), b.astype(float)
    np.testing.assert_allclose(out, a @ b, rtol=1e-6, atol=1e-6 * float(1 + (abs(a) @ abs(b)).max()))


@case(**shape, always=SHAPES)
def matmul_int8(program: Program, m: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (m, k)).astype("i1"), rng.integers(-128, 128, (k, n)).astype("i1")
    out = np.ones((m, n), "i4")
    _matmul(program, a, b, out)
    np.testing.assert_array_equal(out, a.astype("i4") @ b.astype("i4"))


@case(
    "attention",
    "attention_causal",
    heads=st.integers(1, 3),
    n=st.integers(1, 100),
    seed=seeds,
    always=[(1, 1, 0), (2, 64, 1)],
)
def attention(program: Program, heads: int, n: int, seed: int) -> None:
    head = constant(program, "HEAD")
    q, k, v = np.random.default_rng(seed).standard_normal((3, heads, n, head)).astype("f2")
    out, lse = np.zeros_like(q), np.zeros((heads, n), "f4")
    grid = (blocks(n, constant(program, "BLOCK_M")), heads)
    run(program, grid, q, k, v, out, lse, np.float32(0.25), np.int32(n * head), np.int32(n))
    score = 0.25 * q.astype(float) @ k.astype(float).transpose(0, 2, 1)
    if constant(program, "CAUSAL"):
        score = np.where(np.tri(n, dtype=bool), score, -np.inf)
    np.testing.assert_allclose(lse, special.logsumexp(score, axis=2) / math.log(2), rtol=2e-6, atol=2e-6)
    # The weights, at most 1, are rounded to f16 before they meet the values.
    want = special.softmax(score, axis=2) @ v.astype(float)
    bound = (
        2.0**-11 * (special.softmax(score, axis=2) @ np.abs(v.astype(float)) + np.abs(want)) + 2.0**-24 * n
    )
    assert (np.abs(out - want) <= 1.05 * bound).all()


def philox(seed: int, offsets: Array) -> list[Array]:
    """Philox 4x32-10 with the offset as counter and the seed as key: four words each."""
    mask = np.uint64(0xFFFFFFFF)
    c = [offsets.astype("u8"), *(np.zeros(len(offsets), "u8") for _ in range(3))]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        low, high = c[2] * np.uint64(0xCD9E8D57), c[0] * np.uint64(0xD2511F53)
        c = [
            low >> np.uint64(32) ^ c[1] ^ np.uint64(key[0]), low & mask,
            high >> np.uint64(32) ^ c[3] ^ np.uint64(key[1]), high & mask,
        ]  # fmt: skip
        key = [key[0] + 0x9E3779B9 & 0xFFFFFFFF, key[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return [w.astype("u4") for w in c]


def uniform(words: Array) -> Array:
    x = words.view("i4")
    x = np.where(x < 0, -x - 1, x)
    return x.astype("f4") * np.float32(4.6566127342e-10)


small_seeds = st.integers(0, 2**31 - 1)


@case(
    n=st.integers(0, 2000),
    seed=small_seeds,
    p=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    always=[(0, 0, 0.5), (1, 1, 0.5)],
)
def dropout(program: Program, n: int, seed: int, p: float) -> None:
    x = np.random.default_rng(seed).standard_normal(n).astype("f4")
    out = np.full_like(x, 7)
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.int32(n), np.float32(p), np.int32(seed))
    kept = uniform(philox(seed, np.arange(n))[0]) > np.float32(p)
    np.testing.assert_allclose(out, np.where(kept, x / (np.float32(1) - np.float32(p)), 0), rtol=3e-7)


@case(n=st.integers(0, 1000), seed=small_seeds, always=NONE_AND_ONE)
def random_numbers(program: Program, n: int, seed: int) -> None:
    words, normal = np.zeros((4, n), "u4"), np.zeros(n, "f4")
    run(program, blocks(n, constant(program, "BLOCK")), words, normal, np.int32(n), np.int32(seed))
    want = philox(seed, np.arange(n))
    np.testing.assert_array_equal(words, np.reshape(want, (4, n)))
    u1, u2 = (np.maximum(uniform(w), np.float32(1e-7)) for w in want[:2])
    reference = np.sqrt(-2 * np.log(u1.astype(float))) * np.cos(np.float64(6.283185307179586) * u2)
    np.testing.assert_allclose(normal, reference, rtol=2e-5, atol=5e-6)


@case(
    rows=st.integers(0, 30), columns=st.integers(0, 300), seed=seeds, always=[(0, 0, 0), (3, 0, 0), (1, 1, 1)]
)
def row_sums(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 100, (rows, columns)).astype("f4")
    out = np.ones(rows, "f4")
    run(program, blocks(rows, constant(program, "ROWS")), x, out, np.int32(rows), np.int32(columns))
    np.testing.assert_array_equal(out, x.sum(1))


@case(rows=st.integers(0, 90), columns=st.integers(0, 90), seed=seeds, always=[(0, 0, 0), (1, 1, 1)])
def column_sums(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 100, (rows, columns)).astype("f4")
    out = np.ones(columns, "f4")
    grid = (blocks(columns, constant(program, "BLOCK")), blocks(rows, constant(program, "ROWS")))
    run(program, grid, x, out, np.int32(rows), np.int32(columns))
    np.testing.assert_array_equal(out, x.sum(0) + 1)


rows_of = {"rows": st.integers(1, 4), "seed": seeds}


@case(n=st.integers(1, 512), **rows_of, always=[(1, 1, 0), (512, 2, 1)])
def welford(program: Program, n: int, rows: int, seed: int) -> None:
    x = (100 + np.random.default_rng(seed).standard_normal((rows, n))).astype("f4")
    mean, var = np.zeros((2, rows), "f4")
    run(program, rows, x, mean, var, np.int32(n))
    np.testing.assert_allclose(mean, x.mean(1, dtype=float), rtol=3e-7)
    np.testing.assert_allclose(var, x.var(1, dtype=float), rtol=1e-4, atol=1e-8)


@case(n=st.integers(1, 256), **rows_of, always=[(1, 1, 0), (256, 2, 1)])
def extremes(program: Program, n: int, rows: int, seed: int) -> None:
    """Of equals the first wins."""
    x = np.random.default_rng(seed).integers(-20, 20, (rows, n)).astype("i4")
    highest, lowest = np.full((2, rows), -1, "i4")
    run(program, rows, x, highest, lowest, np.int32(n))
    np.testing.assert_array_equal(highest, x.argmax(1))
    np.testing.assert_array_equal(lowest, x.argmin(1))


@case(n=st.integers(0, 512), **rows_of, always=[(0, 1, 0), (1, 1, 1), (512, 2, 2)])
def cumulative_sum(program: Program, n: int, rows: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, (rows, n)).astype("i4")
    out = np.zeros_like(x)
    run(program, rows, x, out, np.int32(n))
    np.testing.assert_array_equal(out, np.cumsum(x, 1, dtype="i4"))


@case(n=st.integers(0, 256), **rows_of, always=[(0, 1, 0), (1, 1, 1), (256, 2, 2)])
def recurrence(program: Program, n: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 1, (rows, n)).astype("f4"), rng.standard_normal((rows, n)).astype("f4")
    out = np.zeros_like(a)
    run(program, rows, a, b, out, np.int32(n))
    h, want = np.zeros(rows), []
    for i in range(n):
        h = h * a[:, i] + b[:, i]
        want.append(h)
    np.testing.assert_allclose(out, np.reshape(want, (n, rows)).T, rtol=1e-5, atol=1e-5)


@case(n=st.integers(0, 64), **rows_of, always=[(0, 1, 0), (1, 1, 1), (64, 2, 2)])
def sort(program: Program, n: int, rows: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-50, 50, (rows, n)).astype("i4")
    out = np.zeros_like(x)
    run(program, rows, x, out, np.int32(n))
    np.testing.assert_array_equal(out, np.sort(x, 1))


@case(n=st.integers(0, 2000), seed=seeds, always=NONE_AND_ONE)
def histogram(program: Program, n: int, seed: int) -> None:
    bins = constant(program, "BINS")
    x = np.random.default_rng(seed).integers(0, bins, n).astype("i4")
    out = np.ones(bins, "i4")
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.int32(n))
    np.testing.assert_array_equal(out, 1 + np.bincount(x, minlength=bins))


@case(n=st.integers(0, 900), slots=st.integers(1, 40), seed=seeds, always=[(0, 1, 0), (1, 1, 1), (900, 1, 2)])
def atomics(program: Program, n: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, slot = rng.integers(-1000, 1000, n).astype("i4"), rng.integers(0, slots, n).astype("i4")
    got = [np.zeros(slots, t) for t in ("f4", "f2", "i4", "f4", "i4")]
    run(program, blocks(n, constant(program, "BLOCK")), x, slot, *got, np.int32(n))
    want = [np.zeros(slots, t) for t in ("f4", "f2", "i4", "f4", "i4")]
    np.add.at(want[0], slot, x)
    np.add.at(want[1], slot, np.fmod(x, 4))
    np.maximum.at(want[2], slot, x)
    np.minimum.at(want[3], slot, x.astype("f4"))
    np.bitwise_xor.at(want[4], slot, x)
    for mine, reference in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, reference)


rectangle = {"rows": st.integers(0, 70), "columns": st.integers(0, 70), "seed": seeds}
RECTANGLES = [(0, 0, 0), (1, 1, 1), (8, 32, 2)]


@case(**rectangle, always=RECTANGLES)
def stencil(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 99, (rows, columns)).astype("f4")
    out = np.zeros_like(x)
    grid = (blocks(columns, constant(program, "BLOCK_X")), blocks(rows, constant(program, "BLOCK_Y")))
    run(program, grid, x, out, np.int32(rows), np.int32(columns))
    p = np.pad(x, 1)
    want = p[1:-1, :-2] + p[1:-1, 2:] + p[:-2, 1:-1] + p[2:, 1:-1] - 4 * x
    np.testing.assert_array_equal(out, want)


@case(**rectangle, always=RECTANGLES)
def transpose(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype("f4")
    out = np.zeros((columns, rows), "f4")
    block = constant(program, "BLOCK")
    run(program, (blocks(rows, block), blocks(columns, block)), x, out, np.int32(rows), np.int32(columns))
    np.testing.assert_array_equal(out, x.T)


@case(rows=st.integers(1, 4), columns=st.integers(1, 700), seed=seeds, always=[(1, 1, 0), (2, 256, 1)])
def cross_entropy(program: Program, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((rows, columns))).astype("f2")
    labels = rng.integers(0, columns, rows)
    loss, gradient = np.zeros(rows, "f4"), np.zeros((rows, columns), "f4")
    run(program, rows, logits, labels, loss, gradient, np.int32(columns))
    logs = special.log_softmax(logits.astype(float), axis=1)
    np.testing.assert_allclose(loss, -logs[np.arange(rows), labels], rtol=2e-6, atol=5e-6)
    want = np.exp(logs)
    want[np.arange(rows), labels] -= 1
    np.testing.assert_allclose(gradient, want, rtol=1e-5, atol=1e-6)


@case(n=st.integers(0, 256), seed=seeds, always=NONE_AND_ONE)
def gather(program: Program, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, at = rng.standard_normal(256).astype("f4"), rng.integers(0, 256, n).astype("i4")
    out = np.zeros(n, "f4")
    run(program, 1, x, at, out, np.int32(n))
    np.testing.assert_array_equal(out, x[at])


@case(n=st.integers(0, 2000), seed=seeds, always=NONE_AND_ONE)
def quantise(program: Program, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(n).astype("f2")
    out = np.zeros(n, "i1")
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.float32(1 / 64), np.int32(n))
    np.testing.assert_array_equal(out, np.clip(np.rint(x.astype("f4") * 64), -128, 127).astype("i1"))


@case(n=st.integers(0, 2000), seed=seeds, always=NONE_AND_ONE)
def narrow(program: Program, n: int, seed: int) -> None:
    """e5m2 is f16 cut to eight bits; Triton rounds to nearest even by adding integers."""
    x = np.random.default_rng(seed).standard_normal(n).astype("f4")
    bf16, fp8 = np.zeros(n, "u2"), np.zeros(n, "u1")
    run(program, blocks(n, constant(program, "BLOCK")), x, bf16, fp8, np.int32(n))
    np.testing.assert_array_equal(bf16, to_bf16(x))
    value = (fp8.astype("u2") << 8).view("f2").astype(float)
    spacing = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(x), 1e-30))) - 2), 2.0**-16)
    assert (np.abs(value - x) <= spacing / 2 * 1.002).all()


@case(
    tokens=st.integers(1, 4),
    heads=st.integers(0, 3),
    half=st.integers(1, 32),
    seed=seeds,
    always=[(1, 0, 1, 0), (1, 1, 1, 1)],
)
def rotary(program: Program, tokens: int, heads: int, half: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, heads, 2, half)).astype("f4")
    angle = rng.uniform(0, 7, (tokens, half))
    c, s = np.cos(angle).astype("f4"), np.sin(angle).astype("f4")
    out = np.zeros_like(x)
    run(program, tokens, x, c, s, out, np.int32(heads), np.int32(half))
    a, b = x[:, :, 0].astype(float), x[:, :, 1].astype(float)
    wide_c, wide_s = c[:, None].astype(float), s[:, None].astype(float)
    want = np.stack([a * wide_c - b * wide_s, b * wide_c + a * wide_s], 2)
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)


@case(**rectangle, always=RECTANGLES)
def descriptors(program: Program, rows: int, columns: int, seed: int) -> None:
    columns *= 4  # rows of whole 16 bytes, as descriptors ask for
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype("f4")
    out = np.zeros_like(x)
    grid = (blocks(rows, constant(program, "ROWS")), blocks(columns, constant(program, "COLUMNS")))
    run(program, grid, x, out, np.int32(rows), np.int32(columns))
    np.testing.assert_array_equal(out, 2 * x)


@case(rows=st.integers(1, 5), seed=seeds, always=[(1, 0)])
def top(program: Program, rows: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 99, (rows, constant(program, "BLOCK"))).astype("f4")
    out = np.zeros((rows, 8), "f4")
    run(program, rows, x, out)
    np.testing.assert_array_equal(out, -np.sort(-x, 1)[:, :8])


@case(n=st.integers(0, 900), seed=seeds, always=NONE_AND_ONE)
def inline_assembly(program: Program, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, n, dtype="u4")
    out = np.zeros_like(x)
    run(program, blocks(n, constant(program, "BLOCK")), x, out, np.int32(n))
    np.testing.assert_array_equal(out, x ^ (x << 7 | x >> 25))


@case(seed=seeds)
def dot_fp64(program: Program, seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 16, 16))
    out = np.zeros((16, 16))
    run(program, 1, a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-14, atol=1e-14)
