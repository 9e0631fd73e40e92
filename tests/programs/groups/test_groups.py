"""Cooperative groups within a block, compiled from CUDA's headers, give what numpy gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)
Ints = npt.NDArray[np.int32]


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("groups.cu"))).kernels[name]


def integers(seed: int, n: int) -> Ints:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)


@pytest.mark.parametrize("width", [1, 4, 32])
@few
@given(blocks=st.integers(0, 2), warps=st.integers(1, 3), seed=seeds)
def test_sums_of_tiles(width: int, blocks: int, warps: int, seed: int) -> None:
    x = integers(seed, blocks * warps * 32)
    out = np.zeros_like(x)
    launch(kernel(f"tile_sums_{width}"), blocks, 32 * warps, x, out)
    sums = x.reshape(-1, width).sum(1, dtype=np.int32)
    np.testing.assert_array_equal(out, np.repeat(sums, width))


@few
@given(seeds)
def test_exchanges_and_votes_of_a_tile(seed: int) -> None:
    x = (2 * np.random.default_rng(seed).standard_normal(64)).astype(np.float32)
    out, words = np.zeros((4, 4, 16), np.float32), np.zeros((6, 4, 16), np.uint32)
    launch(kernel("tile_words"), 1, 64, x, out, words)
    tiles, lanes = x.reshape(4, 16), np.arange(16)
    np.testing.assert_array_equal(out[0], np.repeat(tiles[:, 3:4], 16, 1))
    np.testing.assert_array_equal(out[1], tiles[:, np.where(lanes < 2, lanes, lanes - 2)])
    np.testing.assert_array_equal(out[2], tiles[:, np.where(lanes > 10, lanes, lanes + 5)])
    np.testing.assert_array_equal(out[3], tiles[:, lanes ^ 9])
    ranks = np.arange(4)[:, None] << 16 | 4 << 24 | 16 << 8 | lanes
    np.testing.assert_array_equal(words[0], ranks)
    weights = 1 << lanes
    whole = np.trunc(tiles)
    for tile in range(4):
        assert (words[1, tile] == ((tiles[tile] > 0) * weights).sum()).all()
        votes = (tiles[tile] > 1.5).any() | (tiles[tile] > -1.5).all() << 1
        assert (words[2, tile] == votes).all()
        same = whole[tile][:, None] == whole[tile][None, :]
        np.testing.assert_array_equal(words[3, tile], (same * weights).sum(1))
        assert (words[4, tile] == (0xFFFF if same.all() else 0)).all()
        assert (words[5, tile] == same.all()).all()


@few
@given(n=st.integers(0, 300), seed=seeds, often=st.floats(0, 1))
def test_aggregated_atomics(n: int, seed: int, often: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(n) < often, rng.integers(1, 99, n), -1).astype(np.int32)
    kept, counter = np.full(n, -7, np.int32), np.zeros(1, np.int32)
    launch(kernel("aggregated_atomics"), -(-n // 64), 64, x, np.int32(n), kept, counter)
    want = x[x > 0]
    assert counter[0] == len(want)
    np.testing.assert_array_equal(np.sort(kept[: len(want)]), np.sort(want))
    assert (kept[len(want) :] == -7).all()


def groups_of(labels: Ints) -> list[Ints]:
    """Indices of the threads of each group: of a warp, those with one label."""
    warps = np.arange(len(labels)) // 32
    pairs = sorted(set(zip(warps, labels, strict=True)))
    return [np.flatnonzero((warps == w) & (labels == label)).astype(np.int32) for w, label in pairs]


@few
@given(warps=st.integers(1, 2), kinds=st.integers(1, 33), seed=seeds)
def test_labeled_partition(warps: int, kinds: int, seed: int) -> None:
    n = 32 * warps
    x = integers(seed, n)
    labels = np.random.default_rng(seed).integers(0, kinds, n).astype(np.int32)
    out, want = np.zeros((5, n), np.int32), np.zeros((5, n), np.int32)
    launch(kernel("labeled"), 1, n, labels, x, out)
    for members in groups_of(labels):
        mine = x[members]
        want[0, members], want[1, members] = len(members), np.arange(len(members))
        want[2, members], want[3, members] = mine.sum(dtype=np.int32), mine.max()
        want[4, members] = np.cumsum(mine, dtype=np.int32)
    np.testing.assert_array_equal(out, want)


@few
@given(warps=st.integers(1, 2), seed=seeds, same=st.booleans())
def test_binary_partition(warps: int, seed: int, same: bool) -> None:
    n = 32 * warps
    x = integers(seed, n) | same
    out, want = np.zeros((3, n), np.int32), np.zeros((3, n), np.int32)
    launch(kernel("binary"), 1, n, x, out)
    for members in groups_of(x & 1):
        mine = x[members]
        want[0, members], want[1, members] = len(members), np.bitwise_xor.reduce(mine)
        want[2, members] = np.cumsum(mine, dtype=np.int32) - mine
    np.testing.assert_array_equal(out, want)


@few
@given(tiles=st.integers(1, 12), seed=seeds)
def test_scans_and_reductions_of_tiles(tiles: int, seed: int) -> None:
    n = 8 * tiles
    x = np.random.default_rng(seed).integers(-(2**20), 2**20, n).astype(np.float64)
    out, sums = np.zeros((2, n)), np.zeros((3, n), np.int64)
    launch(kernel("scans"), 1, n, x, out, sums)
    parts = x.reshape(-1, 8)
    np.testing.assert_array_equal(out[0].reshape(-1, 8), np.maximum.accumulate(parts, axis=1))
    np.testing.assert_array_equal(out[1].reshape(-1, 8), np.cumsum(parts, axis=1) - parts)
    whole = parts.astype(np.int64)
    ors = np.bitwise_or.reduce(whole & 0xFFFFFFFF, axis=1)
    for row, values in enumerate((whole.sum(1), ors, whole.min(1))):
        np.testing.assert_array_equal(sums[row], np.repeat(values, 8))


@few
@given(seeds)
def test_tiles_larger_than_a_warp(seed: int) -> None:
    x = integers(seed, 256)
    out = np.zeros((6, 4, 64), np.int32)
    launch(kernel("large_tiles"), 1, 256, x, out)
    tiles = x.reshape(4, 64)
    np.testing.assert_array_equal(out[0], np.repeat(tiles.sum(1, dtype=np.int32)[:, None], 64, 1))
    np.testing.assert_array_equal(out[1], np.repeat(tiles[:, 40:41], 64, 1))
    np.testing.assert_array_equal(out[2], np.repeat((tiles > 2000000000).any(1)[:, None], 64, 1))
    np.testing.assert_array_equal(out[3], np.cumsum(tiles, axis=1, dtype=np.int32))
    np.testing.assert_array_equal(out[4], np.repeat(tiles.min(1)[:, None], 64, 1))
    np.testing.assert_array_equal(
        out[5].reshape(2, 128), np.repeat(x.reshape(2, 128).max(1)[:, None], 128, 1)
    )


@few
@given(seeds, st.sampled_from([1, 2, 8, 32]))
def test_partitions_of_a_size_known_late(seed: int, size: int) -> None:
    x = integers(seed, 64)
    out, want = np.zeros((2, 64), np.int32), np.zeros(64, np.int32)
    launch(kernel("partitions"), 1, 64, x, out, np.int32(size))
    np.testing.assert_array_equal(out[0], size * 100 + np.arange(64) % size)
    for warp in (0, 32):
        odd = warp + np.flatnonzero(x[warp : warp + 32] & 1)
        for first in range(0, len(odd), 4):
            want[odd[first : first + 4]] = x[odd[first : first + 4]].sum(dtype=np.int32)
    np.testing.assert_array_equal(out[1], want)


@few
@given(n=st.integers(0, 700), seed=seeds)
def test_copies_ahead_of_their_use(n: int, seed: int) -> None:
    x = integers(seed, n)
    out = np.zeros(1, np.int32)
    launch(kernel("staged"), 1, 96, x, out, np.int32(n))
    want = (x.astype(np.int64) * np.arange(n)).sum()
    assert out[0] == np.int64(want).astype(np.int32)


@pytest.mark.parametrize("threads", [8, 32, 72])
def test_one_thread_for_its_group(threads: int) -> None:
    counter, out = np.zeros(3, np.int32), np.full(threads, -1, np.int32)
    launch(kernel("elected"), 1, threads, counter, out)
    tiles = threads // 8
    assert counter.tolist() == [tiles, 10 * tiles, threads]
    assert (out == 0).all()


@few
@given(threads=st.integers(1, 256), seed=seeds)
def test_arriving_first_and_waiting_later(threads: int, seed: int) -> None:
    x = integers(seed, threads)
    out = np.zeros_like(x)
    launch(kernel("split_barrier"), 2, threads, x, out)
    np.testing.assert_array_equal(out, 3 * x + x[::-1])
