"""CUB's block sorts, ranks and histograms, compiled from its headers, give what numpy gives."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

THREADS, ITEMS = 64, 2
TILE = THREADS * ITEMS
few = settings(max_examples=12)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("sort.cu"))).kernels[name]


def tiles(dtype: type[np.generic], seed: int) -> npt.NDArray[Any]:
    """Two tiles of any bits (NaNs, infinities and the smallest numbers too), some of them often."""
    rng = np.random.default_rng(seed)
    size = np.dtype(dtype).itemsize
    pool = np.frombuffer(rng.bytes(size * rng.integers(1, 2 * TILE)), dtype)
    return rng.choice(pool, 2 * TILE)


def total_order(bits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bits of floating-point numbers as unsigned integers in CUB's order: by sign, then size; -0 is 0."""
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    bits = np.where(bits == top, bits.dtype.type(0), bits)
    return np.where(bits & top, ~bits, bits | top)


def check_floating(got: npt.NDArray[Any], given_bits: npt.NDArray[Any]) -> None:
    got, given_bits = got.reshape(2, TILE), given_bits.reshape(2, TILE)
    np.testing.assert_array_equal(total_order(got), np.sort(total_order(given_bits), axis=1))
    # Nothing became something else: zeros keep their signs.
    np.testing.assert_array_equal(np.sort(got, axis=1), np.sort(given_bits, axis=1))


@few
@given(seeds)
def test_radix_sort_of_floats(seed: int) -> None:
    x = tiles(np.float32, seed)
    x[::7], x[3::11], x[5::13] = -0.0, 0.0, np.nan
    keys = x.copy()
    launch(kernel("radix_ascending"), 2, THREADS, keys)
    check_floating(keys.view(np.uint32), x.view(np.uint32))


@few
@given(seeds)
def test_radix_sort_of_halves(seed: int) -> None:
    x = tiles(np.float16, seed)
    x[::7], x[3::11] = -0.0, np.nan
    keys = x.copy()
    launch(kernel("radix_half"), 2, THREADS, keys)
    check_floating(keys.view(np.uint16), x.view(np.uint16))


@few
@given(seeds)
def test_radix_sort_descending(seed: int) -> None:
    x = tiles(np.int64, seed)
    keys = x.copy()
    launch(kernel("radix_descending"), 2, THREADS, keys)
    np.testing.assert_array_equal(keys.reshape(2, TILE), np.sort(x.reshape(2, TILE), axis=1)[:, ::-1])


@few
@given(seeds, st.integers(0, 31), st.integers(1, 32))
def test_radix_sort_of_pairs_by_some_bits_is_stable(seed: int, low: int, bits: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 2**32, TILE, dtype=np.uint32)
    high = min(low + bits, 32)
    order = np.argsort(keys >> low & np.uint32((1 << (high - low)) - 1), kind="stable")
    out, values = keys.copy(), np.arange(TILE, dtype=np.int32)
    launch(kernel("radix_pairs"), 1, THREADS, out, values, np.int32(low), np.int32(high))
    np.testing.assert_array_equal(values, order)
    np.testing.assert_array_equal(out, keys[order])


@few
@given(st.integers(0, TILE), seeds)
def test_merge_sort_of_a_ragged_tile_is_stable(n: int, seed: int) -> None:
    keys = np.random.default_rng(seed).integers(-20, 20, n).astype(np.float64)
    keys[::9] = -0.0
    out, values = keys.copy(), np.arange(n, dtype=np.int32)
    launch(kernel("merge_pairs"), 1, THREADS, out, values, np.int32(n))
    order = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(values, order)
    np.testing.assert_array_equal(out.view(np.uint64), keys[order].view(np.uint64))


@few
@given(seeds)
def test_radix_rank(seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 2**32, TILE, dtype=np.uint32)
    ranks = np.full(TILE, -1, np.int32)
    launch(kernel("radix_rank"), 1, THREADS, keys, ranks)
    order = np.argsort(keys >> 2 & 15, kind="stable")
    np.testing.assert_array_equal(ranks[order], np.arange(TILE))


@pytest.mark.parametrize("algorithm", ["atomic", "sort"])
@few
@given(blocks=st.integers(0, 3), seed=seeds, values=st.sampled_from([1, 3, 256]))
def test_histogram(algorithm: str, blocks: int, seed: int, values: int) -> None:
    x = np.random.default_rng(seed).integers(0, values, blocks * TILE).astype(np.uint8)
    out = np.zeros(256, np.int32)
    launch(kernel(f"histogram_{algorithm}"), blocks, THREADS, x, out)
    np.testing.assert_array_equal(out, np.bincount(x, minlength=256))


@few
@given(seeds, st.sampled_from([1, 2, 1000]))
def test_runs_and_steps(seed: int, values: int) -> None:
    x = np.random.default_rng(seed).integers(0, values, TILE).astype(np.int32)
    heads, tails, steps = np.zeros((3, TILE), np.int32)
    launch(kernel("runs"), 1, THREADS, x, heads, tails, steps)
    change = np.diff(x) != 0
    np.testing.assert_array_equal(heads, np.concatenate([[True], change]))
    np.testing.assert_array_equal(tails, np.concatenate([change, [True]]))
    np.testing.assert_array_equal(steps, np.concatenate([x[:1], np.diff(x)]))


@few
@given(seeds, st.sampled_from([1, 2, 9, 200]))
def test_run_length_decoding(seed: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**31), 2**31, 2 * THREADS).astype(np.int32)
    lengths = rng.integers(1, longest + 1, 2 * THREADS).astype(np.uint32)
    want = np.repeat(values, lengths)
    out, total = np.full(len(want) + 3, -1, np.int32), np.zeros(1, np.uint32)
    launch(kernel("decode_runs"), 1, THREADS, values, lengths, out, total)
    assert total[0] == len(want)
    np.testing.assert_array_equal(out, np.concatenate([want, [-1] * 3]))
