"""What each kernel of `generate.py` must compute, launched with the structures and sizes that CuPy uses."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import special

from tests.programs.corpus import Cases, Program

Array = npt.NDArray[Any]
case = Cases()
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 2000)
NONE_AND_ONE = [(0, 0), (1, 1)]
REDUCING = 512


def array(x: Array) -> bytes:
    """CuPy's CArray, by value: pointer, size, shape, strides."""
    return struct.pack(f"<{2 + 2 * x.ndim}q", x.ctypes.data, x.size, *x.shape, *x.strides)


def indexer(*shape: int) -> bytes:
    """CuPy's CIndexer: size, shape, and room for an index."""
    return struct.pack(f"<{1 + 2 * len(shape)}q", math.prod(shape), *shape, *shape)


def elementwise(program: Program, *arguments: Array | np.generic) -> None:
    """Over the last argument's elements. For none CuPy launches nothing, this one block."""
    out = arguments[-1]
    block = max(1, min(128, out.size))
    packed = [array(a) if isinstance(a, np.ndarray) else a for a in arguments]
    program.launch(max(1, -(-out.size // block)), *packed, indexer(*out.shape), block=block)


def reduced(
    program: Program, x: Array, out: Array, outer: int, contiguous: int, shape: tuple[int, ...]
) -> None:
    """`x` into `out`: 512 threads, some of which share each of `outer` results."""
    stride = max(min(contiguous, 32), REDUCING // max(1, x.size // max(1, outer)))
    stride = 1 << stride.bit_length() - 1
    indexers = indexer(*shape), indexer(*out.shape)
    grid = max(1, -(-outer // stride))
    program.launch(grid, array(x), array(out), *indexers, np.int32(stride), block=REDUCING)


def drawn(seed: int, n: int | tuple[int, ...], dtype: str, count: int = 2) -> list[Array]:
    rng = np.random.default_rng(seed)
    shape = (n,) if isinstance(n, int) else n
    if dtype[0] in "iu":
        limits = np.iinfo(dtype)
        x = rng.integers(limits.min, limits.max, (count, *shape), dtype=dtype, endpoint=True)
        # Of every magnitude.
        return list(x >> rng.integers(0, limits.bits - 1, x.shape).astype(dtype))
    x = 3 * rng.standard_normal((count, *shape))
    return list((x + 1j * rng.standard_normal(x.shape) if dtype[0] == "c" else x).astype(dtype))


def _binary(
    name: str, dtype: str, result: str, want: Callable[[Array, Array], Array], rtol: float = 0
) -> None:
    @case(name, n=sizes, seed=seeds, always=NONE_AND_ONE)
    def check(program: Program, n: int, seed: int) -> None:
        x, y = drawn(seed, n, dtype)
        out = np.zeros(n, result)
        elementwise(program, x, y, out)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(out, want(x, y), rtol=rtol)


def _unary(
    name: str, dtype: str, result: str, want: Callable[[Array], Array], rtol: float = 0, atol: float = 0
) -> None:
    @case(name, n=sizes, seed=seeds, always=NONE_AND_ONE)
    def check(program: Program, n: int, seed: int) -> None:
        (x,) = drawn(seed, n, dtype, 1)
        out = np.zeros(n, result)
        elementwise(program, x, out)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(out, want(x), rtol=rtol, atol=atol)


def _by_zero(want: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """CuPy gives 0 for an integer that is divided by 0, as NumPy does."""
    return lambda x, y: np.where(y == 0, 0, want(x, np.where(y == 0, 1, y)))


_binary("add_float32", "f4", "f4", np.add)
_binary("multiply_complex64", "c8", "c8", lambda x, y: x.astype("c16") * y, 5e-7)
_binary("divide_complex128", "c16", "c16", np.divide, 1e-14)
_binary("true_divide_int32", "i4", "f8", np.true_divide)
_binary("floor_divide_int32", "i4", "i4", _by_zero(np.floor_divide))
_binary("remainder_int64", "i8", "i8", _by_zero(np.remainder))
_binary("gcd_int32", "i4", "i4", np.gcd)
_binary("power_float64", "f8", "f8", np.power, 1e-14)
_binary("arctan2_float32", "f4", "f4", lambda x, y: np.arctan2(x.astype("f8"), y), 4e-7)
_binary("greater_float32", "f4", "?", np.greater)
_unary("sin_float32", "f4", "f4", lambda x: np.sin(x.astype("f8")), 3e-7, 1e-7)
_unary("exp_float64", "f8", "f8", np.exp, 1e-15)
_unary("log1p_float32", "f4", "f4", lambda x: np.log1p(x.astype("f8")), 3e-7)
_unary("sqrt_float16", "f2", "f2", np.sqrt)
_unary("tanh_float16", "f2", "f2", lambda x: np.tanh(x.astype("f8")), 1e-3)
_unary("float32_to_float16", "f4", "f2", lambda x: x.astype("f2"))
_unary("gamma_float64", "f8", "f8", special.gammaln, 1e-13, 1e-14)
_unary("erf_float32", "f4", "f4", lambda x: special.erf(x.astype("f8")), 3e-7)


@case(rows=st.integers(0, 40), columns=st.integers(0, 40), seed=seeds, always=[(0, 0, 0), (1, 1, 1)])
def add_float32_strided(program: Program, rows: int, columns: int, seed: int) -> None:
    """One operand with gaps, one that is broadcast, one turned round."""
    x, y, out = drawn(seed, (2 * rows + 1, 3 * columns + 1), "f4", 3)
    x, out = x[: 2 * rows : 2, : 3 * columns : 3], out.T[:columns, :rows][::-1, ::-1].T
    y = np.broadcast_to(y[:rows, :1], (rows, columns))
    want = x + y
    elementwise(program, x, y, out)
    np.testing.assert_array_equal(out, want)


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def add_scalar_float32(program: Program, n: int, seed: int) -> None:
    (x,) = drawn(seed, n, "f4", 1)
    out = np.zeros_like(x)
    elementwise(program, x, np.float32(2.5), out)
    np.testing.assert_array_equal(out, x + np.float32(2.5))


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def left_shift_uint8(program: Program, n: int, seed: int) -> None:
    x, y = drawn(seed, n, "u1")
    y &= 7
    out = np.zeros_like(x)
    elementwise(program, x, y, out)
    np.testing.assert_array_equal(out, x << y)


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def where_float32(program: Program, n: int, seed: int) -> None:
    x, y = drawn(seed, n, "f4")
    out = np.zeros_like(x)
    elementwise(program, x > 1, x, y, out)
    np.testing.assert_array_equal(out, np.where(x > 1, x, y))


@case(n=sizes, start=st.integers(-99, 99), step=st.integers(-9, 9), always=[(0, 1, 1), (1, 5, -2)])
def arange_int32(program: Program, n: int, start: int, step: int) -> None:
    out = np.zeros(n, "i4")
    elementwise(program, np.int32(start), np.int32(step), out)
    np.testing.assert_array_equal(out, start + step * np.arange(n))


@case(n=sizes, length=st.integers(1, 60), seed=seeds, always=[(0, 1, 0), (1, 1, 1)])
def take_float32(program: Program, n: int, length: int, seed: int) -> None:
    """Indices beyond the ends wrap round."""
    (x,) = drawn(seed, length, "f4", 1)
    at = np.random.default_rng(seed).integers(-150, 150, n).astype("i4")
    out = np.zeros(n, "f4")
    elementwise(program, x, at, np.int64(1), np.int64(n), np.int64(1), np.int64(length), out)
    np.testing.assert_array_equal(out, np.take(x, at, mode="wrap"))


@case(n=sizes, slots=st.integers(1, 50), seed=seeds, always=[(0, 1, 0), (1, 1, 1)])
def scatter_add_float32(program: Program, n: int, slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, at, out = (
        rng.integers(-99, 99, n).astype("f4"),
        rng.integers(0, slots, n).astype("i4"),
        np.zeros(slots, "f4"),
    )
    block = max(1, min(128, n))
    program.launch(
        max(1, -(-n // block)), array(x), array(at), np.int64(n), np.int64(1), np.int64(slots), array(out),
        indexer(n), block=block,
    )  # fmt: skip
    want = np.zeros(slots, "f4")
    np.add.at(want, at, x)
    np.testing.assert_array_equal(out, want)


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def elementwise_kernel(program: Program, n: int, seed: int) -> None:
    x, y = drawn(seed, n, "f4")
    out = np.zeros_like(x)
    elementwise(program, x, y, np.float64(0.5), out)
    np.testing.assert_allclose(out, x * np.roll(y, -1).astype("f8") + 0.5, rtol=3e-7, atol=1e-6)


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def fused(program: Program, n: int, seed: int) -> None:
    x, y = drawn(seed, n, "f4")
    out = np.zeros_like(x)
    elementwise(program, x, y, out)
    wide, other = x.astype("f8"), y.astype("f8")
    want = np.tanh(wide * other + 1) * other - np.maximum(wide, 0)
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=2e-6)


@case(n=st.integers(0, 5000), seed=seeds, always=NONE_AND_ONE)
def sum_float32(program: Program, n: int, seed: int) -> None:
    x, out = np.random.default_rng(seed).integers(-99, 99, n).astype("f4"), np.ones((), "f4")
    reduced(program, x, out, 1, 1, (n,))
    assert out == x.sum()


@case(
    rows=st.integers(0, 40), columns=st.integers(0, 80), seed=seeds, always=[(0, 0, 0), (1, 1, 1), (3, 0, 2)]
)
def sum_float32_axis0(program: Program, rows: int, columns: int, seed: int) -> None:
    x, out = (
        np.random.default_rng(seed).integers(-99, 99, rows * columns).astype("f4"),
        np.ones(columns, "f4"),
    )
    reduced(program, x, out, columns, columns, (rows * columns,))
    np.testing.assert_array_equal(out, x.reshape(rows, columns).sum(0))


def _rows(
    name: str, dtype: str, result: str, want: Callable[[Array], Array], rtol: float = 0, empty: bool = True
) -> None:
    """Reductions of each row, CuPy's for axis 1. `empty`: rows of no element have a result."""

    @case(
        name, rows=st.integers(0, 70), columns=st.integers(0 if empty else 1, 700), seed=seeds,
        always=[(0, 3, 0), (1, 1, 1), (3, 512, 2), *([(3, 0, 3)] if empty else [])],
    )  # fmt: skip
    def check(program: Program, rows: int, columns: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = (rng.integers(-99, 100, (rows, columns)) * (1 if dtype != "f8" else 0.01)).astype(dtype)
        out = np.ones(rows, result)
        reduced(program, x.T, out, rows, 1, (columns, rows))
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(out, want(x), rtol=rtol, atol=rtol and 1e-300)


_rows("sum_float32_axis1", "f4", "f4", lambda x: x.sum(1))
_rows("max_int32", "i4", "i4", lambda x: x.max(1, initial=-(2**31)), empty=False)
_rows("argmax_float32", "f4", "i8", lambda x: x.argmax(1), empty=False)
_rows("prod_float64", "f8", "f8", lambda x: x.prod(1), 1e-12)
_rows("any_bool", "?", "?", lambda x: x.any(1))
_rows("reduction_kernel", "f4", "f4", lambda x: np.sqrt((x * x).sum(1)))


@case(
    rows=st.integers(0, 40), columns=st.integers(0, 300), seed=seeds, always=[(0, 3, 0), (1, 1, 1), (2, 0, 2)]
)
def nansum_float32(program: Program, rows: int, columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 100, (rows, columns)).astype("f4")
    x[x % 5 == 0] = np.nan
    out = np.ones(rows, "f4")
    reduced(program, x.T, out, rows, 1, (columns, rows))
    np.testing.assert_array_equal(out, np.nansum(x, 1))


@case(n=st.integers(0, 300), seed=seeds, always=NONE_AND_ONE)
def raw_kernel(program: Program, n: int, seed: int) -> None:
    x, out = np.random.default_rng(seed).integers(-99, 99, n).astype("f4"), np.zeros(1, "f4")
    program.launch(max(1, -(-n // 128)), x, out, np.int32(n), block=128)
    assert out[0] == x.sum()


@case(n=sizes, seed=seeds, always=NONE_AND_ONE)
def jit_kernel(program: Program, n: int, seed: int) -> None:
    x, out = np.random.default_rng(seed).standard_normal((2, n)).astype("f4")
    program.launch(max(1, -(-n // 128)), array(x), array(out), np.int32(n), block=128)
    np.testing.assert_array_equal(out, 2 * x)


@case(
    rows=st.integers(0, 20),
    columns=st.integers(1, 512),
    seed=seeds,
    always=[(0, 3, 0), (1, 1, 1), (2, 512, 2)],
)
def cumsum_int32(program: Program, rows: int, columns: int, seed: int) -> None:
    """Of int64, in place: each row is given a power of two of threads."""
    x = np.random.default_rng(seed).integers(-(2**40), 2**40, (rows, columns))
    want = np.cumsum(x, 1)
    threads = rows * (1 << (columns - 1).bit_length())
    program.launch(
        max(1, -(-threads // 512)), array(x), array(x), np.int32(columns), block=512, shared=8 * 512
    )
    np.testing.assert_array_equal(x, want)


_rows("mean_float16", "f2", "f4", lambda x: x.astype("f8").mean(1), 3e-7, empty=False)


def _cub_rows(name: str, dtype: str, result: str, want: Callable[[Array], Array], rtol: float = 0) -> None:
    """A block a row, which it takes a tile at a time; the last tile is ragged."""

    @case(
        name,
        rows=st.integers(1, 5),
        columns=st.integers(1, 3000),
        seed=seeds,
        always=[(1, 1, 0), (2, 2048, 1)],
    )
    def check(program: Program, rows: int, columns: int, seed: int) -> None:
        x, out = (
            np.random.default_rng(seed).integers(-99, 100, (rows, columns)).astype(dtype),
            np.ones(rows, result),
        )
        if dtype == "f8":
            x[x % 5 == 0] = np.nan
        program.launch(rows, x, out, np.int32(columns), np.int32(0))
        np.testing.assert_allclose(out, want(x), rtol=rtol)


_cub_rows("cub_reduction_kernel", "f4", "f4", lambda x: np.sqrt((x * x).sum(1, dtype="f8")), 2e-6)
_cub_rows("cub_nansum_float64", "f8", "f8", lambda x: np.nansum(x, 1))
_cub_rows("cub_argmax_int32", "i4", "i8", lambda x: x.argmax(1))


@case(n=st.integers(1, 9000), seed=seeds, always=[(1, 0), (2048, 1)])
def cub_first_pass(program: Program, n: int, seed: int) -> None:
    """A part of 2048 elements for each block, whose sums of squares a second kernel would add up."""
    x = np.random.default_rng(seed).integers(-99, 100, n).astype("f4")
    parts = -(-n // 2048)
    out = np.ones(parts, "f4")
    program.launch(parts, x, out, np.int32(2048), np.int32(n))
    np.testing.assert_array_equal(out, np.pad(x * x, (0, 2048 * parts - n)).reshape(parts, 2048).sum(1))
