"""Digests, ciphers and generators against hashlib and zlib."""

from __future__ import annotations

import ctypes
import hashlib
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("hashes.cu")
texts = st.lists(st.binary(max_size=200), min_size=1, max_size=40)
counts = st.integers(1, 100)


def roots(power: float, count: int) -> list[int]:
    """The first bits after the point of the roots of the first primes."""
    primes = [p for p in range(2, 320) if all(p % q for q in range(2, p))][:count]
    return [int(p**power % 1 * 2**32) for p in primes]


def round_constants() -> list[int]:
    constants, r = [], 1
    for _ in range(24):
        value = 0
        for j in range(7):
            value |= (r & 1) << ((1 << j) - 1)
            r = r << 1 ^ (0x171 if r & 0x80 else 0)
        constants.append(value)
    return constants


@pytest.fixture(scope="module", autouse=True)
def _constants(_compiled: None) -> None:
    tables = {
        "K256": np.array(roots(1 / 3, 64), np.uint32),
        "KMD5": np.array([int(abs(math.sin(i + 1)) * 2**32) for i in range(64)], np.uint32),
        "ROUNDS": np.array(round_constants(), np.uint64),
    }
    for name, table in tables.items():
        ctypes.memmove(source.module.globals[name].address, table.ctypes.data, table.nbytes)


def packed(given: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t.ljust(200, b"\1") for t in given], "S200"), np.array([len(t) for t in given], np.int32)


@few
@given(texts)
def test_sha256(given: list[bytes]) -> None:
    data, lengths = packed(given)
    out = np.zeros((len(given), 32), np.uint8)
    launch(
        source["sha256"], -(-len(given) // 32), 32, data, np.int32(200), lengths, out, np.int32(len(given))
    )
    assert [bytes(d) for d in out] == [hashlib.sha256(t).digest() for t in given]


@few
@given(n=counts, seed=seeds)
def test_md5(n: int, seed: int) -> None:
    words, out = rng(seed).integers(0, 2**32, (n, 2), dtype=np.uint32), np.zeros((n, 16), np.uint8)
    launch(source["md5_of_words"], -(-n // 64), 64, words, out, np.int32(n))
    assert [bytes(d) for d in out] == [
        hashlib.md5(w.tobytes(), usedforsecurity=False).digest() for w in words
    ]


@few
@given(n=counts, seed=seeds)
def test_sha3(n: int, seed: int) -> None:
    lanes, out = rng(seed).integers(0, 2**64, (n, 4), dtype=np.uint64), np.zeros((n, 32), np.uint8)
    launch(source["sha3_256_of_lanes"], -(-n // 64), 64, lanes, out, np.int32(n))
    assert [bytes(d) for d in out] == [hashlib.sha3_256(w.tobytes()).digest() for w in lanes]


@few
@given(texts)
def test_crc(given: list[bytes]) -> None:
    data, lengths = packed(given)
    out = np.zeros(len(given), np.uint32)
    launch(source["crc32"], -(-len(given) // 32), 32, data, np.int32(200), lengths, out, np.int32(len(given)))
    assert list(out) == [zlib.crc32(t) for t in given]


def arc4(key: bytes, length: int) -> bytes:
    s, j, out = list(range(256)), 0, []
    for i in range(256):
        j = (j + s[i] + key[i % len(key)]) % 256
        s[i], s[j] = s[j], s[i]
    i = j = 0
    for _ in range(length):
        i = (i + 1) % 256
        j = (j + s[i]) % 256
        s[i], s[j] = s[j], s[i]
        out.append(s[(s[i] + s[j]) % 256])
    return bytes(out)


@few
@given(n=st.integers(1, 70), length=st.integers(0, 30), key=st.integers(1, 16), seed=seeds)
def test_arc4(n: int, length: int, key: int, seed: int) -> None:
    keys = rng(seed).integers(0, 256, (n, key), dtype=np.uint8)
    out = np.zeros((n, length), np.uint8)
    launch(source["arc4"], -(-n // 64), 64, keys, np.int32(key), out, np.int32(length), np.int32(n))
    assert [bytes(row) for row in out] == [arc4(bytes(k), length) for k in keys]


@few
@given(threads=st.integers(1, 70), draws=st.integers(0, 9), seed=st.integers(0, 2**64 - 100))
def test_generators(threads: int, draws: int, seed: int) -> None:
    pcg, shift = np.zeros((threads, draws), np.uint32), np.zeros((threads, draws), np.uint32)
    launch(source["generators"], 1, threads, np.uint64(seed), pcg, shift, np.int32(draws))
    for i in range(threads):
        state, x = (seed + i) % 2**64, seed & 0xFFFFFFFF ^ (i + 1)
        for k in range(draws):
            word, turn = ((state >> 18 ^ state) >> 27) & 0xFFFFFFFF, state >> 59
            assert pcg[i, k] == (word >> turn | word << (-turn & 31)) & 0xFFFFFFFF
            state = (state * 6364136223846793005 + (i << 1 | 1)) % 2**64
            x = (x ^ x << 13) & 0xFFFFFFFF
            x ^= x >> 17
            x = (x ^ x << 5) & 0xFFFFFFFF
            assert shift[i, k] == x
