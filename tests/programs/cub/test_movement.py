"""CUB's block loads, stores and exchanges, and its warp algorithms, give what numpy gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

THREADS, ITEMS = 96, 4
TILE = THREADS * ITEMS
few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("movement.cu"))).kernels[name]


@pytest.mark.parametrize(
    ("way", "scale"),
    [
        ("direct", 1),
        ("vectorized", 1),
        ("transposed", 1),
        ("warp_transposed", 1),
        ("warp_transposed_timesliced", 1),
        ("striped", 0),
    ],
)
@few
@given(n=st.integers(0, 2 * TILE + 1), seed=seeds)
def test_loads_and_stores(way: str, scale: int, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-(2**30), 2**30, n).astype(np.int32)
    raw = np.full(n + 8, -9, np.int32)
    # Vector loads need whole vectors' alignment, as arrays have it.
    source = np.zeros(n + 8, np.int32)
    shift = -source.ctypes.data // 4 % 4
    source = source[shift : shift + n]
    source[:] = x
    out = raw[-raw.ctypes.data // 4 % 4 :]
    launch(kernel(f"move_{way}"), -(-n // TILE), THREADS, source, out, np.int32(n))
    np.testing.assert_array_equal(out[:n], x + scale * (np.arange(n) % TILE))
    assert (out[n:] == -9).all()


@few
@given(seeds)
def test_exchanges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, ranks = np.arange(TILE, dtype=np.int32), rng.permutation(TILE).astype(np.int32)
    out = np.zeros((5, THREADS, ITEMS), np.int32)
    launch(kernel("exchange"), 1, THREADS, x, ranks, out)
    scattered = np.argsort(ranks)
    np.testing.assert_array_equal(out[0], x.reshape(ITEMS, THREADS).T)
    np.testing.assert_array_equal(out[1].reshape(-1), x.reshape(THREADS, ITEMS).T.reshape(-1))
    warps = x.reshape(THREADS // 32, ITEMS, 32).transpose(0, 2, 1)
    np.testing.assert_array_equal(out[2], warps.reshape(THREADS, ITEMS))
    np.testing.assert_array_equal(out[3].reshape(-1), scattered)
    np.testing.assert_array_equal(out[4], scattered.reshape(ITEMS, THREADS).T)


@pytest.mark.parametrize(("width", "threads"), [(32, 64), (16, 64), (6, 30)])
@few
@given(blocks=st.integers(1, 2), part=st.floats(0, 1), seed=seeds)
def test_warp_sums_of_some(width: int, threads: int, blocks: int, part: float, seed: int) -> None:
    blocks = 1 if width == 6 else blocks
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, blocks * threads).astype(np.int32)
    valid = max(1, round(part * width))
    out = np.zeros(len(x) // width, np.int32)
    launch(kernel(f"warp_reduce_{width}"), blocks, threads, x, out, np.int32(valid))
    np.testing.assert_array_equal(out, x.reshape(-1, width)[:, :valid].sum(1, dtype=np.int32))


@few
@given(seeds, st.floats(0, 1))
def test_warp_reductions_of_segments(seed: int, often: float) -> None:
    rng = np.random.default_rng(seed)
    x, flags = rng.integers(-100, 100, 32).astype(np.float64), (rng.random(32) < often).astype(np.int32)
    out = np.zeros((2, 32))
    launch(kernel("warp_reduce_segments"), 1, 32, x, flags, out)
    heads = np.unique(np.concatenate([[0], np.flatnonzero(flags)]))
    np.testing.assert_array_equal(out[0, heads], np.maximum.reduceat(x, heads))
    ends = np.flatnonzero(flags)
    firsts = np.unique(np.concatenate([[0], ends[ends < 31] + 1]))
    np.testing.assert_array_equal(out[1, firsts], np.add.reduceat(x, firsts))


@few
@given(seeds)
def test_warp_scans(seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, 32, dtype=np.uint32)
    out = np.zeros((5, 32), np.uint32)
    launch(kernel("warp_scan"), 1, 32, x, out)
    sums = np.cumsum(x, dtype=np.uint32)
    np.testing.assert_array_equal(out[0], sums)
    np.testing.assert_array_equal(out[1, 1:], sums[:-1])
    parts = np.concatenate([np.full((4, 1), 7, np.uint32), x.reshape(4, 8)], axis=1)
    largest = np.maximum.accumulate(parts, axis=1)
    np.testing.assert_array_equal(out[2], largest[:, :8].reshape(-1))
    np.testing.assert_array_equal(out[3].reshape(4, 8), np.tile(parts[:, 1:].max(1), (8, 1)).T)
    assert (out[4] == x[13]).all()


@few
@given(st.integers(0, 96), seeds)
def test_warp_merge_sort(n: int, seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    out = np.zeros(n + 1, np.uint32)
    launch(kernel("warp_merge_sort"), 1, 32, keys, out, np.int32(n))
    np.testing.assert_array_equal(out, np.concatenate([np.sort(keys[:48]), np.sort(keys[48:]), [0]]))


def test_warp_exchange() -> None:
    x = np.arange(128, dtype=np.int16)
    out = np.zeros((32, 4), np.int16)
    launch(kernel("warp_exchange"), 1, 32, x, out)
    np.testing.assert_array_equal(out, x.reshape(4, 32).T)
