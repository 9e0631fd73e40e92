"""Lanes in lockstep do what a textbook interpreter does, whatever parts them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device.cpu.models import lockstep_plan
from gpudisagg.device.cpu.parser import parse
from tests.device.harness import compiler, launch
from tests.device.warp_programs import CELLS, VARIABLES, Reference, Statement, programs, to_ptx

shapes = st.sampled_from(
    [(1, 1, 1), (32, 1, 1), (33, 1, 1), (64, 1, 1), (100, 1, 1), (16, 4, 1), (5, 7, 3), (8, 2, 5), (48, 2, 1)]
)


def check(program: list[Statement], shape: tuple[int, int, int], seed: int, *, tracked: bool) -> None:
    text = to_ptx(program, tracked=tracked).encode()
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    values = rng.integers(0, 2**32, (n, VARIABLES), dtype=np.uint32)
    values[:, 1] &= 7
    table = rng.integers(0, 2**32, 64, dtype=np.uint32)
    out, sums = np.zeros_like(values), np.zeros(CELLS, np.uint32)
    reference = Reference(values, table)
    reference.run(program)
    module = compiler().load(text)
    try:
        launch(module.kernels["k"], 1, shape, values, table, out, sums)
    finally:
        module.close()
    np.testing.assert_array_equal(sums, reference.sums["global"])
    np.testing.assert_array_equal(out, reference.v.T)


@settings(max_examples=40, deadline=None)
@given(programs, shapes, st.integers(0, 2**32 - 1), st.booleans())
def test_random_programs(
    program: list[Statement], shape: tuple[int, int, int], seed: int, tracked: bool
) -> None:
    assert lockstep_plan(parse(to_ptx(program, tracked=tracked).encode()).functions["k"]) is not None
    check(program, shape, seed, tracked=tracked)
