"""CUB's block scans and reductions, compiled from its headers, give what numpy gives."""

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

THREADS, TILE = 128, 384
few = settings(max_examples=12)
seeds = st.integers(0, 2**32 - 1)
Ints = npt.NDArray[np.int32]


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("block.cu"))).kernels[name]


def integers(seed: int, n: int) -> Ints:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)


@pytest.mark.parametrize("algorithm", ["raking", "raking_memoize", "warp_scans"])
@few
@given(n=st.integers(0, 2 * TILE + 5), seed=seeds)
def test_inclusive_sum(algorithm: str, n: int, seed: int) -> None:
    x = integers(seed, n)
    out, tiles = np.full(n + 1, 77, np.int32), -(-n // TILE)
    totals = np.zeros(tiles, np.int32)
    launch(kernel(f"inclusive_{algorithm}"), tiles, THREADS, x, out, totals, np.int32(n))
    for tile in range(tiles):
        part = x[tile * TILE : (tile + 1) * TILE]
        np.testing.assert_array_equal(
            out[tile * TILE : tile * TILE + len(part)], np.cumsum(part, dtype=np.int32)
        )
        assert totals[tile] == part.sum(dtype=np.int32)
    assert out[n] == 77


@few
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=96, max_size=96),
    st.floats(width=32, allow_nan=False),
)
def test_exclusive_scan_by_an_operator(values: list[float], initial: float) -> None:
    x = np.array(values * 2, np.float32)
    out = np.zeros_like(x)
    launch(kernel("exclusive_max"), 2, 96, x, out, np.float32(initial))
    want = np.maximum.accumulate(np.concatenate([[np.float32(initial)], x[:95]]))
    np.testing.assert_array_equal(out, np.tile(want, 2))


@few
@given(n=st.integers(0, 300), seed=seeds)
def test_exclusive_sum_carried_from_tile_to_tile(n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
    out = np.zeros(n, np.uint64)
    launch(kernel("exclusive_sum_of_all"), 1, 64, x, out, np.int32(n))
    np.testing.assert_array_equal(out, np.cumsum(x) - x)


def composed(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The maps x -> scale * x + shift (rows of x), each after all before it."""
    out = x.astype(object)
    for i in range(1, len(x)):
        scale, shift = out[i - 1]
        out[i] = [scale * out[i, 0] % 2**32, (shift * out[i, 0] + out[i, 1]) % 2**32]
    return out.astype(np.uint32)


@few
@given(seeds)
def test_scan_of_what_does_not_commute_in_three_dimensions(seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, (128, 2), dtype=np.uint32)
    out = np.zeros_like(x)
    launch(kernel("inclusive_compose"), 1, (16, 4, 2), x, out)
    np.testing.assert_array_equal(out, composed(x))


@pytest.mark.parametrize("algorithm", ["raking_commutative", "raking", "warp_reductions"])
@few
@given(n=st.integers(0, 3 * THREADS), seed=seeds)
def test_sum_of_a_ragged_tile(algorithm: str, n: int, seed: int) -> None:
    x, blocks = integers(seed, n), -(-n // THREADS)
    out = np.zeros(blocks, np.int32)
    launch(kernel(f"sum_{algorithm}"), blocks, THREADS, x, out, np.int32(n))
    want = [x[i * THREADS : (i + 1) * THREADS].sum(dtype=np.int32) for i in range(blocks)]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("algorithm", ["raking", "warp_reductions"])
@few
@given(n=st.integers(1, 100), seed=seeds)
def test_reduction_of_what_does_not_commute(algorithm: str, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 2**32, (n, 2), dtype=np.uint32)
    out = np.zeros(2, np.uint32)
    launch(kernel(f"compose_{algorithm}"), 1, 100, x, out, np.int32(n))
    np.testing.assert_array_equal(out, composed(x)[-1])


@few
@given(n=st.integers(1, 700), seed=seeds)
def test_argmax(n: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-5, 5, n).astype(np.float64)
    index, value = np.zeros(1, np.int32), np.zeros(1)
    launch(kernel("argmax"), 1, (16, 10), x, np.int32(n), index, value)
    assert (index[0], value[0]) == (x.argmax(), x.max())
