"""Threads that wait for one another, and share what they write."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device.harness import launch
from tests.programs.cuda.source import Source, few, rng, seeds

source = Source("sync.cu")
counts = st.integers(1, 300)


@few
@given(blocks=st.integers(1, 60))
def test_a_lock_asked_for_by_blocks(blocks: int) -> None:
    counter, trace = np.zeros(1, np.int32), np.full(blocks, -1, np.int32)
    launch(source["lock_by_block"], blocks, 64, counter, trace)
    assert counter[0] == blocks and sorted(trace) == list(range(blocks))


@pytest.mark.parametrize("name", ["lock_by_thread", "lock_naive"])
@few
@given(blocks=st.integers(1, 3), threads=st.integers(1, 100))
def test_a_lock_asked_for_by_threads(name: str, blocks: int, threads: int) -> None:
    mutex, counter = np.zeros(1, np.int32), np.zeros(1, np.int32)
    launch(source[name], blocks, threads, mutex, counter)
    each = threads if name == "lock_by_thread" else threads * (threads - 1) // 2
    assert (mutex[0], counter[0]) == (0, blocks * each)


@few
@given(n=st.integers(0, 200), seed=seeds)
def test_a_lock_per_bucket(n: int, seed: int) -> None:
    keys, sums = rng(seed).integers(0, 99, n).astype(np.int32), np.zeros(8, np.float32)
    launch(source["locked_buckets"], 1, 96, keys, sums, np.int32(n))
    np.testing.assert_array_equal(sums, np.bincount(keys & 7, keys, 8))


@few
@given(blocks=st.integers(1, 50))
def test_a_ticket_lock(blocks: int) -> None:
    ticket, order = np.zeros(2, np.uint32), np.zeros(blocks, np.uint32)
    launch(source["ticket_lock"], blocks, 32, ticket, order)
    assert sorted(order) == list(range(blocks)) and list(ticket) == [blocks, blocks]


@few
@given(n=counts, seed=seeds)
def test_atomics_made_of_compare_and_swap(n: int, seed: int) -> None:
    x = rng(seed).normal(size=n).astype(np.float32)
    total, most, cells = np.zeros(1), np.full(1, -np.inf, np.float32), np.zeros(8, np.uint8)
    launch(source["made_atomics"], -(-n // 64), 64, x, total, most, cells, np.int32(n))
    np.testing.assert_allclose(total[0], x.sum(dtype=float), atol=1e-9)
    assert most[0] == x.max()
    i = np.arange(n)
    np.testing.assert_array_equal(cells, np.bincount(i % 7, i + 1, 8).astype(np.int64).astype(np.uint8))


@few
@given(n=counts, seed=seeds)
def test_all_atomics(n: int, seed: int) -> None:
    x = rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)
    cells = np.array([0, 0, 2**31 - 1, -(2**31), -1, 0, 0, 0, 0, 0], np.int32)
    wide, f, d = np.array([0, 0, 2**62, 0], np.uint64), np.zeros(1, np.float32), np.zeros(1)
    launch(source["all_atomics"], -(-n // 64), 64, x, cells, wide, f, d, np.int32(n))
    total = x.sum(dtype=np.int32)
    with np.errstate(over="ignore"):
        want = [total, -total, x.min(), x.max(), np.bitwise_and.reduce(x), np.bitwise_or.reduce(x),
                np.bitwise_xor.reduce(x), n % 13, -n % 13]  # fmt: skip
    np.testing.assert_array_equal(cells[:9], want)
    big = [int(v) & (2**64 - 1) for v in x]
    assert int(wide[0]) == sum(v << 20 for v in big) % 2**64
    assert int(wide[1]) == x.view(np.uint32).max() and wide.view(np.int64)[2] == x.min()
    assert int(wide[3]) == functools.reduce(operator.xor, [v * 0x9E3779B97F4A7C15 % 2**64 for v in big])
    assert f[0] == (x & 15).sum() and d[0] == x.sum(dtype=np.int64) / 2


@few
@given(n=counts, seed=seeds)
def test_hash_table(n: int, seed: int) -> None:
    keys = rng(seed).integers(0, 200, n).astype(np.uint32)
    values = rng(seed + 1).integers(0, 1000, n).astype(np.uint32)
    table = np.tile(np.array([0xFFFFFFFF, 0], np.uint32), (512, 1))
    launch(source["table_insert"], -(-n // 64), 64, table, np.uint32(512), keys, values, np.int32(n))
    asked, found = np.arange(250, dtype=np.uint32), np.zeros(250, np.uint32)
    launch(source["table_lookup"], 1, 256, table, np.uint32(512), asked, found, np.int32(250))
    np.testing.assert_array_equal(found, np.bincount(keys, values, 250))


@few
@given(n=counts, lists=st.integers(1, 9))
def test_lists_without_locks(n: int, lists: int) -> None:
    nodes, heads = np.zeros((n, 2), np.int32), np.full(lists, -1, np.int32)
    launch(source["push_lists"], -(-n // 128), 128, nodes, heads, np.int32(lists), np.int32(n))
    for start, head in enumerate(heads):
        found = []
        while head >= 0 and len(found) <= n:
            found.append(nodes[head, 0])
            head = nodes[head, 1]
        assert sorted(found) == list(range(start, n, lists))


@few
@given(n=st.integers(0, 100), blocks=st.integers(1, 5), seed=seeds)
def test_blocks_that_stay(n: int, blocks: int, seed: int) -> None:
    items, leaves = rng(seed).integers(0, 50, n).astype(np.int32), np.zeros(1, np.int32)
    queue = np.array([0, n, 0], np.uint32)
    launch(source["persistent"], blocks, 40, queue, items, np.uint32(n), leaves)
    assert leaves[0] == items.sum() and queue[0] == n + blocks


@few
@given(n=st.integers(1, 900), seed=seeds)
def test_blocks_that_wait_for_those_before(n: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 9, n).astype(np.int32), np.zeros(n, np.int32)
    blocks = -(-n // 64)
    totals, flags, ticket = np.zeros(blocks, np.int32), np.zeros(blocks, np.int32), np.zeros(1, np.int32)
    launch(source["chained_scan"], blocks, 64, x, out, totals, flags, ticket, np.int32(n))
    np.testing.assert_array_equal(totals, np.cumsum([x[i : i + 64].sum() for i in range(0, n, 64)]))
    np.testing.assert_array_equal(
        out, x + np.repeat(totals - [x[i : i + 64].sum() for i in range(0, n, 64)], 64)[:n]
    )


@few
@given(n=counts, seed=seeds)
def test_one_atomic_for_a_warp(n: int, seed: int) -> None:
    x, out, count = (
        rng(seed).integers(0, 99, n).astype(np.int32),
        np.zeros(n, np.int32),
        np.zeros(1, np.int32),
    )
    launch(source["aggregated"], -(-n // 96), 96, x, out, count, np.int32(n))
    kept = x[x % 3 == 0]
    assert count[0] == len(kept)
    np.testing.assert_array_equal(np.sort(out[: len(kept)]), np.sort(kept))


@few
@given(n=st.integers(1, 130), seed=seeds)
def test_what_warps_can_do(n: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 1000, n).astype(np.int32), np.zeros((17, n), np.uint32)
    launch(source["warp_tools"], -(-n // 64), 64, x, out, np.int32(n))
    for start in range(0, n, 32):
        v = x[start : start + 32].astype(np.int64)
        lanes = np.arange(len(v))
        mask = (1 << len(v)) - 1

        def bits(which: np.ndarray, lanes: np.ndarray = lanes) -> int:
            return int((which.astype(np.int64) << lanes).sum())

        same = bool((v >> 8 == v[0] >> 8).all())
        odd = v % 2 == 1

        def from_lane(
            source: np.ndarray, good: np.ndarray, v: np.ndarray = v, lanes: np.ndarray = lanes
        ) -> np.ndarray:
            known = np.where(good, source, lanes)
            return np.where(known < len(v), v[np.minimum(known, len(v) - 1)], -1)

        rows = [
            [bits(v & 3 == w & 3) for w in v], [mask if same else 0] * len(v), [same] * len(v),
            *[[f(v)] * len(v) for f in (np.sum, np.min, np.max, np.bitwise_and.reduce, np.bitwise_or.reduce,
                                         np.bitwise_xor.reduce)],
            from_lane(lanes - 3, lanes >= 3), from_lane(lanes ^ 5, lanes >= 0),
            from_lane((lanes & 16) + (lanes * 7 & 15), lanes >= 0), from_lane(lanes + 2, lanes % 8 < 6),
            [(v == 5).any()] * len(v), [(v < 900).all()] * len(v),
            np.where(odd, bits(odd & (v & 2 > 0)), (~odd).sum()), (1 << lanes) - 1,
        ]  # fmt: skip
        for index, row in enumerate(rows):
            want = np.array(row, np.int64)
            known = want >= 0  # what comes from lanes that aren't there isn't
            got = out[index, start : start + 32]
            np.testing.assert_array_equal(got[known], want[known], err_msg=str(index))


@few
@given(blocks=st.integers(1, 3), threads=st.integers(1, 140), seed=seeds)
def test_votes_of_blocks(blocks: int, threads: int, seed: int) -> None:
    x, out = rng(seed).integers(-6, 10, (blocks, threads)).astype(np.int32), np.zeros(blocks, np.int32)
    launch(source["block_votes"], blocks, threads, x, out)
    want = (x > 0).sum(1) * 100 + (x > -5).all(1) * 10 + (x == 9).any(1)
    np.testing.assert_array_equal(out, want)


@few
@given(n=st.integers(1, 64), seed=seeds)
def test_barriers_after_threads_have_left(n: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 9, n).astype(np.int32), np.zeros(n, np.int32)
    launch(source["early_exit"], 1, 64, x, out, np.int32(n))
    want = x
    for _ in range(3):
        want = want + np.roll(want, -1)
    np.testing.assert_array_equal(out, want)


@few
@given(rounds=st.integers(0, 9), seed=seeds)
def test_warps_with_roles(rounds: int, seed: int) -> None:
    x, out = rng(seed).integers(0, 99, (rounds, 32)).astype(np.int32), np.zeros((rounds, 32), np.int32)
    launch(source["specialised"], 1, 64, x, out, np.int32(rounds))
    np.testing.assert_array_equal(out, 2 * x[:, ::-1] + np.arange(rounds)[:, None])


@pytest.mark.parametrize("threads", [1, 33, 1000, 1024])
def test_blocks_of_any_size(threads: int) -> None:
    x, out = rng(threads).integers(0, 9, (3, threads)).astype(np.float32), np.zeros(3, np.float32)
    launch(source["any_block"], 3, threads, x, out)
    np.testing.assert_array_equal(out, x.sum(1))


def test_clocks() -> None:
    out = np.zeros(70, np.int64)
    launch(source["clocks"], 1, 70, out)
    assert (out == 3).all()
