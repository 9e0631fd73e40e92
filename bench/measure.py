"""Statistics, and measuring two things so that they can be compared: interleaved, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import TypeVar

K = TypeVar("K")


def interleave(subjects: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, list[float]]:
    """Calls every subject once a round, in turn, and the other way round in every second one.

    So that whatever changes slowly (clock, neighbours, which mode the caches are in) falls on all alike.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    values: dict[K, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else reversed(order):
            values[name].append(subjects[name]())
    return values


def ratio(values: Sequence[float], floors: Sequence[float]) -> float:
    """The median of the rounds' own ratios: a floor with two modes then moves both sides of each."""
    return median(value / floor for value, floor in zip(values, floors, strict=True))


def middle_mean(values: Sequence[float]) -> float:
    """The mean of the middle four fifths: finer than a median where the clock's steps are coarse."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return fmean(ordered[cut : len(ordered) - cut])


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """The calling thread stays on one CPU for a while; None: stays free."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cpus() -> tuple[int, int] | tuple[None, None]:
    """Two CPUs that this process may use, the last ones, or (None, None) where it has but one."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[-2], cpus[-1]) if len(cpus) > 1 else (None, None)


def cpu_ns(pid: int) -> int:
    """CPU time that all living threads of a process have used, ns, as the scheduler counts it. 0: there is
    none.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
    return total


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, children first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


class Noise:
    """How much of the machine others took since this was made: what makes a figure worth less than it
    seems.
    """

    def __init__(self) -> None:
        self._ticks, self._own = _cpu_ticks(), _own_ticks()

    def stolen(self) -> float:
        """Share of all CPU time, 0..1, that the hypervisor gave to other guests."""
        spent = self._spent()
        return spent[_STEAL] / max(1, sum(spent))

    def others(self) -> float:
        """Share of all CPU time, 0..1, that processes other than this one and its ended children used."""
        spent = self._spent()
        busy = sum(spent) - spent[_IDLE] - spent[_IOWAIT] - spent[_STEAL]
        return max(0.0, busy - (_own_ticks() - self._own)) / max(1, sum(spent))

    def _spent(self) -> list[int]:
        return [end - begin for begin, end in zip(self._ticks, _cpu_ticks(), strict=True)]


_IDLE, _IOWAIT, _STEAL = 3, 4, 7


def _cpu_ticks() -> list[int]:
    # user nice system idle iowait irq softirq steal; guest time is in user already
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _own_ticks() -> float:
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    return seconds * os.sysconf("SC_CLK_TCK")
