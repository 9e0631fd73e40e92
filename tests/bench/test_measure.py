"""The statistics behind every figure."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import measure

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)


def test_subjects_take_turns_and_the_order_is_reversed_every_second_round() -> None:
    calls: list[str] = []

    def subject(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    values = measure.interleave({"a": lambda: subject("a"), "b": lambda: subject("b")}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert values == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_no_rounds_is_a_mistake_not_an_empty_result() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure.interleave({"a": lambda: 1.0}, rounds=0)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1), POSITIVE)
def test_a_ratio_is_that_of_the_rounds_whatever_both_sides_are_scaled_by(
    rounds: list[tuple[float, float]], scale: float
) -> None:
    values, floors = zip(*rounds, strict=True)
    ratio = measure.ratio(values, floors)
    assert min(v / f for v, f in rounds) <= ratio <= max(v / f for v, f in rounds)
    scaled = measure.ratio([v * scale for v in values], [f * scale for f in floors])
    assert scaled == pytest.approx(ratio)


def test_a_floor_that_changes_its_mode_in_the_middle_moves_both_sides_of_the_ratio() -> None:
    floors = [100.0] * 4 + [350.0] * 5
    assert measure.ratio([1.1 * floor for floor in floors], floors) == pytest.approx(1.1)


def test_sides_of_different_lengths_are_not_compared() -> None:
    with pytest.raises(ValueError):
        measure.ratio([1.0, 2.0], [1.0])


@given(st.lists(POSITIVE, min_size=1))
def test_the_middle_mean_lies_within_the_values(values: list[float]) -> None:
    assert min(values) * (1 - 1e-9) <= measure.middle_mean(values) <= max(values) * (1 + 1e-9)


def test_the_middle_mean_ignores_a_few_that_were_interrupted() -> None:
    assert measure.middle_mean([1.0] * 95 + [1e6] * 5) == 1.0


def test_pinning_ends_where_it_began() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with measure.pinned(one):
        assert os.sched_getaffinity(0) == {one}
    assert os.sched_getaffinity(0) == before


def test_cpu_time_of_a_process_that_computes_grows_and_of_none_is_zero() -> None:
    before = measure.cpu_ns(os.getpid())
    spent = time.process_time() + 0.05
    while time.process_time() < spent:
        pass
    assert measure.cpu_ns(os.getpid()) - before > 20_000_000
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        assert measure.cpu_ns(ended.pid) == 0


def test_descendants_are_found_through_generations() -> None:
    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
        "print(child.pid, flush=True); input(); child.communicate()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        try:
            assert {parent.pid, grandchild} <= set(measure.descendants(os.getpid()))
        finally:
            parent.communicate(b"\n")


def test_noise_is_a_share() -> None:
    noise = measure.Noise()
    assert 0.0 <= noise.stolen() <= 1.0
    assert 0.0 <= noise.others() <= 1.0
