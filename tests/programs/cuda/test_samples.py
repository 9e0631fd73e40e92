"""The programs of every CUDA course."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("samples.cu")
sizes = st.integers(0, 700)


@few
@given(n=sizes, seed=seeds)
def test_vector_add(n: int, seed: int) -> None:
    a, b = rng(seed).normal(size=(2, n)).astype(np.float32)
    c = np.full(n + 3, 7, np.float32)
    launch(source["vectorAdd"], -(-n // 256), 256, a, b, c, np.int32(n))
    np.testing.assert_array_equal(c, [*(a + b), 7, 7, 7])


@pytest.mark.parametrize("tile", [16, 32])
@few
@given(m=st.integers(1, 3), n=st.integers(1, 3), k=st.integers(1, 4), seed=seeds)
def test_matrix_product_of_tiles(tile: int, m: int, n: int, k: int, seed: int) -> None:
    a = rng(seed).normal(size=(m * tile, k * tile)).astype(np.float32)
    b = rng(seed + 1).normal(size=(k * tile, n * tile)).astype(np.float32)
    c = np.zeros((m * tile, n * tile), np.float32)
    kernel = source[f"MatrixMulCUDAILi{tile}E"]
    launch(kernel, (n, m), (tile, tile), c, a, b, np.int32(k * tile), np.int32(n * tile))
    np.testing.assert_allclose(c, a.astype(float) @ b, rtol=1e-4, atol=1e-4)


@few
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), seed=seeds)
def test_transposes(rows: int, columns: int, seed: int) -> None:
    x = rng(seed).normal(size=(32 * rows, 32 * columns)).astype(np.float32)
    out = np.zeros(x.T.shape, np.float32)
    launch(source["transposeNaive"], (columns, rows), (32, 8), out, x)
    np.testing.assert_array_equal(out, x.T)
    wide, double = x.astype(float), np.zeros(x.T.shape)
    launch(source["transposeDiagonal"], (columns, rows), (32, 8), double, wide,
           np.int32(32 * columns), np.int32(32 * rows))  # fmt: skip
    np.testing.assert_array_equal(double, wide.T)


@few
@given(rows=st.integers(1, 100), columns=st.integers(1, 100), seed=seeds)
def test_ragged_transpose(rows: int, columns: int, seed: int) -> None:
    x = rng(seed).normal(size=(rows, columns)).astype(np.float32)
    out = np.zeros((columns, rows), np.float32)
    launch(source["transposeNoBankConflicts"], (-(-columns // 32), -(-rows // 32)), (32, 8), out, x,
           np.int32(columns), np.int32(rows))  # fmt: skip
    np.testing.assert_array_equal(out, x.T)


@pytest.mark.parametrize("name", ["reduce0IiE", "reduce1", "reduce3"])
@few
@given(n=sizes, threads=st.sampled_from([1, 2, 32, 64, 256]), seed=seeds)
def test_first_reductions(name: str, n: int, threads: int, seed: int) -> None:
    x = rng(seed).integers(-1000, 1000, n).astype(np.int32)
    tile = threads * (2 if name == "reduce3" else 1)
    out = np.zeros(-(-n // tile), np.int32)
    launch(source[name], len(out), threads, x, out, np.uint32(n), dynamic_shared=4 * threads)
    np.testing.assert_array_equal(out, [x[i : i + tile].sum() for i in range(0, n, tile)])


@few
@given(n=sizes, seed=seeds)
def test_reduction_of_doubles(n: int, seed: int) -> None:
    x, out = rng(seed).normal(size=n), np.zeros(-(-n // 128))
    launch(source["reduce0IdE"], len(out), 128, x, out, np.uint32(n), dynamic_shared=1024)
    np.testing.assert_allclose(out, [x[i : i + 128].sum() for i in range(0, n, 128)], atol=1e-12)


@few
@given(n=st.integers(0, 5000), blocks=st.integers(1, 4), seed=seeds)
def test_reductions_whose_last_warp_is_in_step(n: int, blocks: int, seed: int) -> None:
    x, out = rng(seed).integers(-9, 9, n).astype(np.int32), np.zeros(blocks, np.int32)
    launch(source["reduce6IiLj256ELb0E"], blocks, 256, x, out, np.uint32(n), dynamic_shared=1024)
    assert out.sum() == x.sum()
    y, partial = rng(seed).normal(size=128 * blocks).astype(np.float32), np.zeros(blocks, np.float32)
    launch(source["reduce6IfLj64ELb1E"], blocks, 64, y, partial, np.uint32(len(y)), dynamic_shared=512)
    np.testing.assert_allclose(partial.sum(), y.astype(float).sum(), atol=1e-4)


@few
@given(n=st.integers(0, 5000), blocks=st.integers(1, 70), seed=seeds)
def test_the_last_block_adds(n: int, blocks: int, seed: int) -> None:
    x, out = rng(seed).integers(-9, 9, n).astype(np.float32), np.zeros(blocks, np.float32)
    launch(source["reduceSinglePass"], blocks, 256, x, out, np.uint32(n))
    assert out[0] == x.sum()


@few
@given(n=st.integers(1, 1024), seed=seeds)
def test_scan_of_a_block(n: int, seed: int) -> None:
    x, out = rng(seed).integers(-99, 99, n).astype(np.int32), np.zeros(n, np.int32)
    launch(source["scanHillisSteele"], 1, n, out, x, np.int32(n), dynamic_shared=8 * n)
    np.testing.assert_array_equal(out, np.cumsum(x) - x)


@few
@given(log=st.integers(1, 11), seed=seeds)
def test_scan_without_bank_conflicts(log: int, seed: int) -> None:
    n = 1 << log
    x, out = rng(seed).integers(-99, 99, n).astype(np.float32), np.zeros(n, np.float32)
    launch(source["scanBlelloch"], 1, n // 2, out, x, np.int32(n), dynamic_shared=4 * (n + n // 32 + 1))
    np.testing.assert_array_equal(out, np.cumsum(x) - x)


@few
@given(log=st.integers(2, 10), blocks=st.integers(1, 3), seed=seeds)
def test_scans_of_parts(log: int, blocks: int, seed: int) -> None:
    x = rng(seed).integers(0, 2**32, (1024 * blocks >> log, 1 << log)).astype(np.uint32)
    out = np.zeros_like(x)
    launch(source["scanExclusiveShared"], blocks, 256, out, x, np.uint32(1 << log))
    np.testing.assert_array_equal(out, np.cumsum(x, axis=1, dtype=np.uint32) - x)


@few
@given(n=st.integers(0, 3000), blocks=st.integers(1, 3), seed=seeds)
def test_histograms(n: int, blocks: int, seed: int) -> None:
    words = rng(seed).integers(0, 2**32, n).astype(np.uint32)
    pixels: npt.NDArray[np.uint8] = words.view(np.uint8)
    small = np.zeros((blocks, 64), np.uint32)
    launch(source["histogram64Kernel"], blocks, 64, small, words, np.uint32(n))
    np.testing.assert_array_equal(small.sum(0), np.bincount(pixels >> 2, minlength=64))
    tagged = np.zeros((blocks, 256), np.uint32)
    launch(source["histogram256Tagged"], blocks, 192, tagged, words, np.uint32(n))
    np.testing.assert_array_equal(tagged.sum(0), np.bincount(pixels, minlength=256))
    bins = np.zeros(256, np.uint32)
    launch(source["histogram256"], blocks, 192, bins, pixels, np.uint32(4 * n))
    np.testing.assert_array_equal(bins, np.bincount(pixels, minlength=256))


@few
@given(log=st.integers(1, 10), blocks=st.integers(1, 3), up=st.booleans(), seed=seeds)
def test_sorting_networks(log: int, blocks: int, up: bool, seed: int) -> None:
    n = 1 << log
    keys = rng(seed).permuted(np.tile(np.arange(n, dtype=np.uint32), (blocks, 1)), axis=1)
    values = keys * 3
    out, out_values = np.zeros_like(keys), np.zeros_like(keys)
    launch(source["bitonicSortShared"], blocks, n // 2, out, out_values, keys, values,
           np.uint32(n), np.uint32(up))  # fmt: skip
    want = np.sort(keys, axis=1)[:, :: 1 if up else -1]
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(out_values, want * 3)
    launch(source["oddEvenMergeSortShared"], 1, n // 2, keys, values, np.uint32(n), np.uint32(up),
           dynamic_shared=8 * n)  # fmt: skip
    np.testing.assert_array_equal(keys[0], want[0])
    np.testing.assert_array_equal(values[0], want[0] * 3)


@few
@given(n=st.integers(1, 256), seed=seeds)
def test_radix_sort_by_ballots(n: int, seed: int) -> None:
    x = rng(seed).integers(0, 2**12, n).astype(np.uint32)
    want = np.sort(x)
    launch(source["radixSortBits"], 1, 256, x, np.int32(n), np.int32(12), dynamic_shared=1024)
    np.testing.assert_array_equal(x, want)
