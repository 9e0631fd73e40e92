"""The kernels behind CUB's device-wide algorithms, launched by hand as its host code does it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

REDUCE_TILE, SORT_TILE, DIGITS = 512, 256, 256
few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("device.cu"))).kernels[name]


@few
@given(n=st.integers(0, 5000), grid=st.integers(1, 5), seed=seeds)
def test_reduction_shared_evenly(n: int, grid: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)
    out = np.zeros(grid, np.int64)
    launch(kernel("reduce_tiles"), grid, 128, x, out, np.int32(n))
    assert out.sum() == x.sum(dtype=np.int64)
    if n >= grid * REDUCE_TILE:
        assert out.all()


def scan(name: str, x: npt.NDArray[Any], tile: int, *initial: np.generic) -> npt.NDArray[Any]:
    """Scanned by decoupled look-back, each block one tile."""
    tiles = -(-len(x) // tile)
    size = 3 * (16 * (tiles + 32) + 512)
    state, out = np.full(size, 0xAB, np.uint8), np.zeros_like(x)
    where = (state, np.uint64(size))
    launch(kernel(f"clear_{name}"), -(-max(tiles, 1) // 128), 128, *where, np.int32(tiles))
    launch(kernel(f"scan_{name}"), tiles, 64, x, out, *where, np.int32(len(x)), *initial)
    return out


@few
@given(n=st.integers(0, 4000), initial=st.integers(-(2**31), 2**31 - 1), seed=seeds)
def test_exclusive_scan_by_look_back(n: int, initial: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)
    out = scan("int", x, 192, np.int32(initial))
    want = np.cumsum(x, dtype=np.int64) - x + initial
    np.testing.assert_array_equal(out, want.astype(np.int32))


@few
@given(n=st.integers(0, 600), seed=seeds)
def test_scan_of_structures_that_do_not_commute_by_look_back(n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, (n, 2), dtype=np.uint32)
    want = x.astype(object)
    for i in range(1, n):
        scale, shift = want[i - 1]
        want[i] = [scale * want[i, 0] % 2**32, (shift * want[i, 0] + want[i, 1]) % 2**32]
    np.testing.assert_array_equal(scan("affine", x, 64), want.astype(np.uint32))


@few
@given(n=st.integers(0, 1000), kinds=st.sampled_from([1, 2, 50]), seed=seeds)
def test_sums_of_runs_of_keys_by_look_back(n: int, kinds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = np.repeat(rng.integers(0, kinds, n), rng.integers(1, 9, n))[:n].astype(np.int32)
    values = rng.integers(-(2**20), 2**20, n).astype(np.int32)
    tiles = -(-n // 192)
    state, unique, sums = np.zeros(16 * (tiles + 40), np.uint8), *np.full((2, n), -1, np.int32)
    count = np.zeros(1, np.int32)
    where = (state[-state.ctypes.data % 16 :], np.uint64(len(state) - 16))
    launch(kernel("clear_runs"), max(tiles, 1), 64, *where, np.int32(tiles))
    launch(kernel("reduce_runs"), tiles, 64, keys, values, unique, sums, count, *where, np.int32(n))
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    assert count[0] == len(starts)
    np.testing.assert_array_equal(unique[: len(starts)], keys[starts])
    np.testing.assert_array_equal(sums[: len(starts)], np.add.reduceat(values, starts) if n else [])
    assert (unique[len(starts) :] == -1).all()


@few
@given(n=st.integers(0, 3000), distinct=st.integers(1, 3000), seed=seeds)
def test_radix_sort_in_one_sweep_per_digit(n: int, distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 2**32, distinct, dtype=np.uint32).view(np.float32)
    pool[0] = [-0.0, 0.0, np.nan, -np.inf][seed % 4]
    keys, values = rng.choice(pool, n), np.arange(n, dtype=np.int32)
    bins = np.zeros((4, DIGITS), np.uint32)
    launch(kernel("sort_histogram"), 3, 128, bins, keys, np.uint32(n))
    bits = keys.view(np.uint32)
    folded = np.where(bits == 1 << 31, np.uint32(0), bits)
    ranks = np.where(folded >> 31, ~folded, folded | np.uint32(1 << 31))
    for digit in range(4):  # what fills the last tile is in the last bin too, where it does no harm
        counts = np.bincount(ranks >> 8 * digit & 255, minlength=DIGITS)
        np.testing.assert_array_equal(bins[digit, :-1], counts[:-1])
    blocks = -(-n // SORT_TILE)
    got, order = keys, values
    for digit in range(4):
        starts = np.cumsum(bins[digit], dtype=np.uint32) - bins[digit]
        state = np.zeros(blocks * DIGITS, np.int32), np.zeros(1, np.int32)
        keys_out, values_out = np.zeros_like(got), np.zeros_like(order)
        sizes = np.int32(n), np.int32(8 * digit)
        launch(kernel("sort_sweep"), blocks, 128, *state, starts, keys_out, got, values_out, order, *sizes)
        got, order = keys_out, values_out
    np.testing.assert_array_equal(order, np.argsort(ranks, kind="stable"))
    np.testing.assert_array_equal(got.view(np.uint32), bits[order])
