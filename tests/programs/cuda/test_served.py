"""Programs on a server's device, as their authors run them: several threads run blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpudisagg
from tests.client.conftest import PATIENCE, serving
from tests.programs.cuda.source import Source, few, rng, seeds

sync = Source("sync.cu").path


@pytest.fixture(scope="module")
def gpu() -> Iterator[gpudisagg.Session]:
    with serving("--workers", "1", "--memory", "64MiB", "--threads", "2") as address:
        with gpudisagg.connect(address, timeout=PATIENCE) as session:
            yield session


@pytest.fixture(scope="module")
def module(gpu: gpudisagg.Session) -> gpudisagg.Module:
    return gpu.compile(sync.read_text())


@few
@given(blocks=st.integers(1, 40), threads=st.integers(1, 100))
def test_locks(gpu: gpudisagg.Session, module: gpudisagg.Module, blocks: int, threads: int) -> None:
    for name in ("lock_by_thread", "lock_naive"):
        mutex, counter = gpu.zeros(1, np.int32), gpu.zeros(1, np.int32)
        module[name][blocks, threads](mutex, counter)
        each = threads if name == "lock_by_thread" else threads * (threads - 1) // 2
        assert counter.get()[0] == blocks * each
    counter, trace = gpu.zeros(1, np.int32), gpu.zeros(blocks, np.int32)
    module["lock_by_block"][blocks, 64](counter, trace)
    assert sorted(trace.get()) == list(range(blocks))


@few
@given(n=st.integers(1, 3000), seed=seeds)
def test_blocks_that_wait_for_blocks(
    gpu: gpudisagg.Session, module: gpudisagg.Module, n: int, seed: int
) -> None:
    x = rng(seed).integers(0, 9, n).astype(np.int32)
    out, count = gpu.zeros(n, np.int32), -(-n // 64)
    totals, flags, ticket = gpu.zeros(count, np.int32), gpu.zeros(count, np.int32), gpu.zeros(1, np.int32)
    module["chained_scan"][count, 64](gpu.asarray(x), out, totals, flags, ticket, n)
    np.testing.assert_array_equal(totals.get(), np.cumsum([x[i : i + 64].sum() for i in range(0, n, 64)]))
