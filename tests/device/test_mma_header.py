"""`#include <mma.h>` works without nvcc: `nvcuda::wmma` multiplies tiles in its types, shapes, layouts."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpudisagg.device import KernelCode
from tests.device.harness import compiler, launch

SOURCE = """
#include <mma.h>
using namespace nvcuda;

template <int M, int N, int K, typename T, typename P, typename A, typename B, typename C, typename D>
__device__ void product(const P *a, const P *b, const C *c, D *d, wmma::layout_t layout, bool limit) {
  wmma::fragment<wmma::matrix_a, M, N, K, T, A> fa;
  wmma::fragment<wmma::matrix_b, M, N, K, T, B> fb;
  wmma::fragment<wmma::accumulator, M, N, K, C> fc;
  wmma::fragment<wmma::accumulator, M, N, K, D> fd;
  bool rows = layout == wmma::mem_row_major;
  wmma::load_matrix_sync(fa, a, cuda_same<A, wmma::row_major> ? K : M);
  wmma::load_matrix_sync(fb, b, cuda_same<B, wmma::row_major> ? N : K);
  wmma::fill_fragment(fd, 0);
  wmma::load_matrix_sync(fc, c, rows ? N : M, layout);
  for (int i = 0; i < fc.num_elements; i++) fc.x[i] = fc.x[i] * (C)2;
  wmma::mma_sync(fd, fa, fb, fc, limit);
  wmma::store_matrix_sync(d, fd, rows ? N : M, layout);
}
"""
SAME = """
template <typename A, typename B> constexpr bool cuda_same = false;
template <typename A> constexpr bool cuda_same<A, A> = true;
"""
SHAPES = [(16, 16, 16), (32, 8, 16), (8, 32, 16)]
INTEGERS = {"signed char": np.int8, "unsigned char": np.uint8}
HALVES = list(itertools.product(*[("float", "__half")] * 2))
BYTES = ["signed char", "unsigned char", "signed char"]
CASES: list[tuple[tuple[int, int, int], str, str, str, str]] = [
    *((SHAPES[i % 3], "__half", "__half", c, d) for i, (c, d) in enumerate(HALVES)),
    *((shape, "__nv_bfloat16", "__nv_bfloat16", "float", "float") for shape in SHAPES),
    *((shape, kind, kind, "int", "int") for shape, kind in zip(SHAPES, BYTES, strict=True)),
    ((16, 16, 8), "wmma::precision::tf32", "float", "float", "float"),
    ((8, 8, 4), "double", "double", "double", "double"),
]
DTYPES = {"float": np.float32, "__half": np.float16, "int": np.int32, "double": np.float64, **INTEGERS}


def layouts(index: int) -> tuple[str, str]:
    """How A and B lie in memory."""
    return ("row", "col")[index & 1], ("row", "col")[index >> 1 & 1]


@functools.cache
def kernels() -> dict[str, KernelCode]:
    text = SAME + SOURCE
    for index, ((m, n, k), kind, plain, c, d) in enumerate(CASES):
        a, b = layouts(index)
        text += f"""
extern "C" __global__ void k{index}(const {plain} *a, const {plain} *b, const {c} *c, {d} *d, int rows,
                                    bool limit) {{
  product<{m}, {n}, {k}, {kind}, {plain}, wmma::{a}_major, wmma::{b}_major>(
      a, b, c, d, rows ? wmma::mem_row_major : wmma::mem_col_major, limit);
}}
"""
    return dict(compiler().load(text.encode(), name="wmma").kernels)


def bits_of(x: npt.NDArray[np.float64], kind: str) -> npt.NDArray[Any]:
    """The matrix in memory; bf16 by its bits (small integers have them exactly)."""
    if kind == "__nv_bfloat16":
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(DTYPES[kind])


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{c[1]}-{c[0]}-{c[3]}-{c[4]}" for c in CASES])
@pytest.mark.parametrize("rows", [0, 1])
def test_products(index: int, rows: int) -> None:
    (m, n, k), _, plain, c_kind, d_kind = CASES[index]
    rng = np.random.default_rng(index)
    low = 0 if plain == "unsigned char" else -9
    a, b, c = (rng.integers(low, 9, shape).astype(np.float64) for shape in ((m, k), (k, n), (m, n)))
    a_rows, b_rows = (layout == "row" for layout in layouts(index))
    memory = np.zeros((m, n) if rows else (n, m), DTYPES[d_kind])
    launch(
        kernels()[f"k{index}"],
        1,
        32,
        bits_of(np.ascontiguousarray(a if a_rows else a.T), plain),
        bits_of(np.ascontiguousarray(b if b_rows else b.T), plain),
        bits_of(np.ascontiguousarray(c if rows else c.T), c_kind),
        memory,
        np.int32(rows),
        np.int8(0),
    )
    # Small integers: exact in every type.
    np.testing.assert_array_equal(memory if rows else memory.T, a @ b + 2 * c)


def test_saturation() -> None:
    index = next(i for i, case in enumerate(CASES) if case[1] == "signed char")
    (m, n, k), *_ = CASES[index]
    a, b = np.full((m, k), 127, np.int8), np.full((k, n), 127, np.int8)
    c, d = np.full((m, n), 2**30 - 1, np.int32), np.zeros((m, n), np.int32)
    launch(kernels()[f"k{index}"], 1, 32, a, b, c, d, np.int32(1), np.int8(1))
    assert (d == 2**31 - 1).all()
    launch(kernels()[f"k{index}"], 1, 32, a, b, c, d, np.int32(1), np.int8(0))
    assert (d == np.int64(2**31 - 2 + 127 * 127 * k - 2**32)).all()
