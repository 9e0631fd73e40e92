"""libcu++ in device code, compiled from its headers, gives what numpy gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

few = settings(max_examples=10)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("library.cu"))).kernels[name]


def integers(seed: int, n: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)


@few
@given(n=st.integers(0, 300), seed=seeds)
def test_atomics(n: int, seed: int) -> None:
    x = integers(seed, n)
    ints, longs, floats = np.array([5, 5, 5, 5, 5], np.int32), np.ones(2, np.uint64), np.zeros(1, np.float32)
    launch(kernel("atomics"), -(-n // 96), 96, x, np.int32(n), ints, longs, floats)
    want = [5 + x.sum(dtype=np.int32), max(5, *x, 5), min(5, *x, 5), np.bitwise_xor.reduce([*x, 5]), 5 + n]
    np.testing.assert_array_equal(ints, np.array(want, np.int64).astype(np.int32))
    words = [int(v) % 2**32 for v in x]
    product = functools.reduce(lambda a, b: a * (2 * b % 2**32 + 1) % 2**64, words, 1)
    assert [int(v) for v in longs] == [1 + sum(words), product]
    assert floats[0] == n


@few
@given(threads=st.integers(1, 200), seed=seeds)
def test_atomics_of_bytes_and_halves_of_words(threads: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, threads).astype(np.uint8)
    counts, flags = np.full(8, 250, np.uint8), np.zeros(4, np.uint16)
    launch(kernel("small_atomics"), 1, threads, x, counts, flags)
    np.testing.assert_array_equal(counts, (250 + np.bincount(x & 7, minlength=8)).astype(np.uint8))
    want = np.zeros(4, np.uint16)
    np.bitwise_or.at(want, x & 3, (1 << np.arange(threads) % 16).astype(np.uint16))
    np.testing.assert_array_equal(flags, want)


@few
@given(n=st.integers(0, 200), seed=seeds)
def test_complex_numbers(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((2, n)) + 1j * rng.standard_normal((2, n))).astype(np.complex64)
    out = np.zeros((8, n), np.complex64)
    launch(kernel("complexes"), -(-n // 64), 64, x, y, out, np.int32(n))
    a, b = x.astype(np.complex128), y.astype(np.complex128)
    polar = np.exp(1j * x.real.astype(np.float64))
    want = [a + b, a * b, a / b, a.conj(), np.exp(a), np.sqrt(b), np.abs(a) + 1j * np.angle(b), polar]
    for got, exact in zip(out, want, strict=True):
        np.testing.assert_array_less(np.abs(got - exact), 4e-6 * (np.abs(exact) + 1e-3))


def test_complex_numbers_at_the_edges() -> None:
    x = np.array([np.inf + 1j, 1 - 1j * np.inf, 0, 1e30 + 1e30j], np.complex64)
    y = np.array([1 + 0j, 2 + 2j, -4 - 0j, 1e30 + 1e30j], np.complex64)
    out = np.zeros((8, 4), np.complex64)
    launch(kernel("complexes"), 1, 64, x, y, out, np.int32(4))
    assert np.isinf(out[1, :2]).all()
    assert np.isinf(out[2, :2]).all()
    np.testing.assert_allclose(out[2, 3], 1)
    np.testing.assert_allclose(out[5, 2].imag, -2 if np.signbit(y[2].imag) else 2)


@few
@given(n=st.integers(0, 200), seed=seeds)
def test_spans_and_arrays(n: int, seed: int) -> None:
    x = integers(seed, n)
    out = np.zeros(8, np.int32)
    launch(kernel("spans"), 1, 1, x, np.int32(n), out)
    part = x[n // 4 : n // 4 + n // 2]
    sums = [x[i::5].sum(dtype=np.int32) for i in range(5)]
    ends = part[0] ^ part[-1] if len(part) else -1
    assert out.tolist() == [part.sum(dtype=np.int32), *sums, len(part), ends]


@few
@given(rows=st.integers(0, 20), columns=st.integers(0, 20))
def test_mdspan_changes_the_layout(rows: int, columns: int) -> None:
    x = np.random.default_rng(1).random((rows, columns))
    out = np.zeros((columns, rows))
    launch(kernel("matrices"), 1, 32, x, out, np.int32(rows), np.int32(columns))
    np.testing.assert_array_equal(out, x.T)


@few
@given(arrays.arrays(np.int32, st.integers(0, 100), elements=st.integers(0, 400)))
def test_optional_variant_and_tuple(x: npt.NDArray[np.int32]) -> None:
    out = np.zeros_like(x)
    launch(kernel("choices"), -(-len(x) // 32), 32, x, out, np.int32(len(x)))
    roots = np.sqrt(x).astype(np.int32)
    np.testing.assert_array_equal(out, np.where(roots**2 == x, roots * 10, -10 + 1))


@few
@given(arrays.arrays(np.uint32, st.integers(1, 100)))
def test_bit_operations(x: npt.NDArray[np.uint32]) -> None:
    x[0] = 0
    out = np.zeros((9, len(x)), np.uint32)
    launch(kernel("bits"), -(-len(x) // 32), 32, x, out, np.int32(len(x)))
    for i, value in enumerate(int(v) for v in x):
        width = value.bit_length()
        assert out[:, i].tolist() == [
            value.bit_count(),
            32 - width,
            (value & -value).bit_length() - 1 if value else 32,
            32 - (value ^ 0xFFFFFFFF).bit_length(),
            (value << 7 | value >> 25) & 0xFFFFFFFF,
            1 << width - 1 if value else 0,
            value.bit_count() == 1,
            value,
            width,
        ]


def test_numeric_limits() -> None:
    out = np.zeros(10)
    launch(kernel("limits"), 1, 1, out)
    f, d = np.finfo(np.float32), np.finfo(np.float64)
    want = [f.eps, f.max, f.min, f.smallest_subnormal, d.eps, d.max, d.smallest_subnormal, np.inf, 2.0**63, 8]
    assert out.tolist() == [float(v) for v in want]


def folded(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    total = np.zeros(rows.shape[1:], np.int64)
    for row in rows:
        total = (total * 31 + row) % 2**32
    return total.astype(np.uint32).view(np.int32)


@few
@given(turns=st.integers(0, 5), half=st.sampled_from([1, 16, 32, 64]), seed=seeds)
def test_producers_and_consumers_at_two_barriers(turns: int, half: int, seed: int) -> None:
    x = integers(seed, turns * half)
    out = np.full(half, -1, np.int32)
    launch(kernel("producers"), 1, 2 * half, x, out, np.int32(turns))
    assert (out == folded(x[:, None])).all()


@few
@given(tiles=st.integers(0, 6), seed=seeds)
def test_pipeline_of_asynchronous_copies(tiles: int, seed: int) -> None:
    raw = np.zeros(tiles * 64 + 4, np.int32)
    x = raw[-raw.ctypes.data // 4 % 4 :][: tiles * 64]
    x[:] = integers(seed, len(x))
    out = np.zeros(64, np.int32)
    launch(kernel("pipelined"), 1, 64, x, out, np.int32(tiles))
    np.testing.assert_array_equal(out, folded(np.roll(x.reshape(tiles, 64), -1, axis=1)))


@pytest.mark.parametrize("threads", [1, 32, 100])
def test_latches_and_semaphores_wait_for_other_threads_of_the_block(threads: int) -> None:
    x = integers(7, threads)
    out = np.zeros(threads, np.int32)
    launch(kernel("waiting"), 1, threads, x, out)
    np.testing.assert_array_equal(out, np.roll(x, -1) + x.sum(dtype=np.int32))


@pytest.mark.parametrize("threads", [1, 2, 33, 128])
def test_a_flag_that_another_thread_of_the_block_sets(threads: int) -> None:
    flag, value, out = np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(threads, np.int32)
    launch(kernel("flagged"), 1, threads, flag, value, out)
    assert (out == 42).all()
