"""cuRAND's device generators give the numbers of the papers they are from."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode
from tests.device.harness import launch, load_file

few = settings(max_examples=10)
words = st.integers(0, 2**64 - 1)
Words = npt.NDArray[np.uint32]
Reals = npt.NDArray[np.float64]


@functools.cache
def kernel(name: str) -> KernelCode:
    return load_file(str(Path(__file__).with_name("generators.ptx"))).kernels[name]


def philox(counter: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of rows of words."""
    low = np.uint64(0xFFFFFFFF)
    a, b, c, d = counter.T
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, c = second >> np.uint64(32) ^ b ^ np.uint64(k0), first >> np.uint64(32) ^ d ^ np.uint64(k1)
        b, d = second & low, first & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=1)


def philox_stream(seed: int, sequence: int, offset: int, count: int) -> Words:
    """`count` words of a sequence from an offset: the counter's low half counts blocks of four words, its
    high half is the sequence.
    """
    blocks = [(offset // 4 + i) % 2**64 for i in range(count // 4 + 2)]
    # A carry out of the low half goes into the sequence, as the counter is one number.
    carried = [(sequence + (b < offset // 4)) % 2**64 for b in blocks]
    low = 0xFFFFFFFF
    counters = [[b & low, b >> 32, s & low, s >> 32] for b, s in zip(blocks, carried, strict=True)]
    stream = philox(np.array(counters, np.uint64), seed).reshape(-1)
    return stream[offset % 4 : offset % 4 + count].astype(np.uint32)


def test_the_reference_gives_the_known_answers() -> None:
    """From the paper's own test vectors (Random123, kat_vectors: philox4x32 with 10 rounds)."""
    zero = philox(np.zeros((1, 4), np.uint64), 0)[0]
    ones = philox(np.full((1, 4), 0xFFFFFFFF, np.uint64), 2**64 - 1)[0]
    assert [f"{v:08x}" for v in zero] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{v:08x}" for v in ones] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


def aligned(count: int) -> Words:
    raw = np.zeros(count + 4, np.uint32)
    return raw[-raw.ctypes.data // 4 % 4 :][:count]


@few
@given(blocks=st.integers(0, 2), seed=words, first=st.integers(0, 2**64 - 100), offset=words)
def test_philox_in_fours(blocks: int, seed: int, first: int, offset: int) -> None:
    threads, count = blocks * 20, 3
    out = aligned(threads * count * 4)
    place = np.uint64(seed), np.uint64(first), np.uint64(offset)
    launch(kernel("philox_words"), blocks, 20, out, *place, np.int32(count))
    for thread, got in enumerate(out.reshape(threads, count * 4)):
        np.testing.assert_array_equal(got, philox_stream(seed, first + thread, offset, count * 4))


@few
@given(seed=words, offset=st.integers(0, 2**40), count=st.integers(0, 11))
def test_philox_one_at_a_time(seed: int, offset: int, count: int) -> None:
    out = np.zeros((5, count), np.uint32)
    launch(kernel("philox_single"), 1, 5, out, np.uint64(seed), np.uint64(offset), np.int32(count))
    for thread in range(5):
        np.testing.assert_array_equal(out[thread], philox_stream(seed, thread, offset, count))


def unit(x: Words) -> npt.NDArray[np.float32]:
    """In (0, 1], as cuRAND has it: one rounding, as its expression is contracted."""
    return (x.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33).astype(np.float32)


def box_muller(x: Words, y: Words) -> Reals:
    """Two normal numbers (last axis) of two words, in the way of cuRAND's single-precision ones."""
    radius = np.sqrt(-2 * np.log(unit(x).astype(np.float64)))
    angle = y.astype(np.float64) * (2 * np.pi / 2**32) + np.pi / 2**32
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=-1)


def unit_double(x: Words, y: Words) -> Reals:
    wide = x.astype(np.uint64) ^ y.astype(np.uint64) << np.uint64(21)
    return wide.astype(np.float64) * 2.0**-53 + 2.0**-54


@few
@given(seed=words, n=st.integers(0, 90))
def test_reals_of_philox(seed: int, n: int) -> None:
    uniform, normal = aligned(4 * n).view(np.float32), aligned(4 * n).view(np.float32)
    uniform2, normal2 = np.zeros((2, n, 2))
    poisson, lognormal = np.zeros(n, np.uint32), np.zeros(n, np.float32)
    outputs = uniform, normal, uniform2, normal2, poisson, lognormal
    launch(kernel("philox_reals"), -(-n // 32), 32, *outputs, np.uint64(seed), np.int32(n))
    stream = np.array([philox_stream(seed, i, 0, 18) for i in range(n)]).reshape(n, 18)
    np.testing.assert_array_equal(uniform.reshape(n, 4), unit(stream[:, :4]))
    pairs = box_muller(stream[:, 4:8:2], stream[:, 5:8:2])
    # Its sine and cosine are approximations with an error of 2^-21, and angles are rounded to 24 bits.
    np.testing.assert_allclose(normal.reshape(n, 2, 2), pairs, rtol=1e-5, atol=1e-5)
    u, v = unit_double(stream[:, 8], stream[:, 9]), unit_double(stream[:, 10], stream[:, 11])
    np.testing.assert_array_equal(uniform2, np.stack([u, v], axis=1))
    radius = np.sqrt(-2 * np.log(unit_double(stream[:, 12], stream[:, 13])))
    turns = 2 * unit_double(stream[:, 14], stream[:, 15]) * np.pi
    exact = np.stack([radius * np.sin(turns), radius * np.cos(turns)], axis=1)
    np.testing.assert_allclose(normal2, exact, rtol=1e-12, atol=1e-13)
    first = box_muller(stream[:, 16], stream[:, 17])[:, 0]
    np.testing.assert_allclose(lognormal, np.exp(0.5 + 0.25 * first), rtol=1e-5)
    assert (poisson < 40).all()


def test_poisson_has_its_mean_and_variance() -> None:
    n = 4000
    uniform, normal = aligned(4 * n).view(np.float32), aligned(4 * n).view(np.float32)
    poisson = np.zeros(n, np.uint32)
    others = uniform, normal, np.zeros(2 * n), np.zeros(2 * n), poisson, np.zeros(n, np.float32)
    launch(kernel("philox_reals"), -(-n // 128), 128, *others, np.uint64(1), np.int32(n))
    # Five standard deviations of either: 4.5 / n, and (3 * 4.5**2 + 4.5 - 4.5**2) / n.
    assert abs(poisson.mean() - 4.5) < 5 * np.sqrt(4.5 / n)
    assert abs(poisson.var() - 4.5) < 5 * np.sqrt((2 * 4.5**2 + 4.5) / n)
    assert abs(normal.mean()) < 5 / np.sqrt(4 * n)
    assert abs(normal.var() - 1) < 5 * np.sqrt(2 / (4 * n))


def xorwow(seed: int, count: int) -> list[int]:
    """Marsaglia 2003 ("Xorshift RNGs"), seeded as cuRAND does it."""
    low = 0xFFFFFFFF
    t0 = 1099087573 * (seed & low ^ 0xAAD26B49) & low
    t1 = 2591861531 * (seed >> 32 ^ 0xF7DCEFDD) & low
    d = 6615241 + t1 + t0
    x, y, z, w, v = 123456789 + t0, 362436069 ^ t0, 521288629 + t1, 88675123 ^ t1, 5783321 + t0
    x, y, z, w, v, d = (value & low for value in (x, y, z, w, v, d))
    found = []
    for _ in range(count):
        t = x ^ x >> 2
        x, y, z, w = y, z, w, v
        v = (v ^ v << 4 ^ t ^ t << 1) & low
        d = d + 362437 & low
        found.append(v + d & low)
    return found


@few
@given(seed=st.integers(0, 2**64 - 100), count=st.integers(0, 9))
def test_xorwow_goes_on_where_it_stopped(seed: int, count: int) -> None:
    states, out = np.zeros((40, 48), np.uint8), np.zeros((2, 40, count), np.uint32)
    launch(kernel("xorwow_init"), 2, 20, states, np.uint64(seed))
    for part in out:
        launch(kernel("xorwow_words"), 2, 20, states, part, np.int32(count))
    for thread in range(40):
        assert [*out[0, thread], *out[1, thread]] == xorwow(seed + thread, 2 * count)


def mrg32k3a(seed: int, skipped: int, count: int) -> list[int]:
    """L'Ecuyer 1999 ("Good parameters ... for combined multiple recursive random number generators"), seeded
    as cuRAND does it.
    """
    m1, m2 = 4294967087, 4294944443
    x1, x2 = (seed & 0xFFFFFFFF) ^ 0x55555555, seed >> 32 ^ 0xAAAAAAAA
    if seed == 0:
        x1 = x2 = 1
    s1 = [x * 12345 % m1 for x in (x1, x2, x1)]
    s2 = [x * 12345 % m2 for x in (x2, x1, x2)]
    found = []
    for _ in range(skipped + count):
        s1 = [*s1[1:], (1403580 * s1[1] - 810728 * s1[0]) % m1]
        s2 = [*s2[1:], (527612 * s2[2] - 1370589 * s2[0]) % m2]
        found.append((s1[2] - s2[2]) % m1 or m1)
    return found[skipped:]


@few
@given(seed=words, offset=st.integers(0, 300), count=st.integers(0, 5))
def test_mrg32k3a_skips_ahead(seed: int, offset: int, count: int) -> None:
    out, uniform = np.zeros((16, count), np.uint32), np.zeros(16)
    place = np.uint64(seed), np.uint64(offset)
    launch(kernel("mrg_words"), 1, 16, out, uniform, *place, np.int32(count))
    for thread in range(16):
        *want, last = mrg32k3a(seed, offset + thread, count + 1)
        # cuRAND stretches its numbers to 32 bits.
        assert out[thread].tolist() == [int(v * 1.000000048662) for v in want]
        np.testing.assert_allclose(uniform[thread], last / 4294967087, rtol=1e-15)


def test_darts() -> None:
    inside, throws = np.zeros(1, np.uint64), 500
    launch(kernel("darts"), 4, 64, inside, np.int32(throws))
    hits = 0
    for thread in range(256):
        x, y = unit(philox_stream(1234, thread, 0, 2 * throws)).reshape(throws, 2).T.astype(np.float64)
        hits += int((x * x + y * y <= 1).sum())
    # A dart within a rounding of the circle may fall on either side of it.
    assert abs(int(inside[0]) - hits) <= 2
