"""Rows whose floor or rival is another program of bench/peers: both open at once, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from . import measure, peers
from .comparison import Run, time_text
from .row import Effort, Measured, NotHere

SHM_C, SHM, SLEEPING = "gpudisagg shm, C", "gpudisagg shm", "gpudisagg shm, C, sleeping"
TCP_C, TCP = "gpudisagg tcp, C", "gpudisagg tcp"
LINES, FUTEX, SOCKETS, SPINNING = "cache lines", "futex", "tcp socket", "tcp socket, spinning"
UCX, UCX_TCP, UCXX, GRPC = "UCX shm", "UCX tcp", "UCXX", "gRPC streaming"
NIXL = "NIXL, no error handling"
RATE_WANTED = 60e6  # messages a second, or three times UCX's where that is less
_BULK = 64 << 20


@dataclass(frozen=True)
class Rounds:
    """What one run gave: name -> a value for each round; and why a name has none."""

    values: dict[str, list[Any]]
    absent: dict[str, str]
    failed: dict[str, str]

    def of(self, name: str) -> list[Any]:
        """NotHere: it is not installed. PeerFailed."""
        if name in self.absent:
            raise NotHere(self.absent[name])
        if name not in self.values:
            raise peers.PeerFailed(f"{name}: {self.failed.get(name, 'not measured')}")
        return self.values[name]


def _turns(
    names: Sequence[str],
    effort: Effort,
    does: str,
    call: Callable[[peers.Pair, int], Any],
    ns: Callable[[Any], float],
    largest: int = 4096,
) -> Rounds:
    with Run(effort.peers_python, say=lambda _: None) as run:
        run.open([peers.kind(name) for name in names], largest)
        values = run.turns(does, effort.peer_slice, effort.peer_rounds, call, ns)
        return Rounds(values, run.absent, run.failed)


# One run serves several rows: they differ only in what they compare.
@cache
def _round_trips(effort: Effort, *names: str) -> Rounds:
    return _turns(
        names, effort, peers.MESSAGES, lambda pair, count: pair.round_trips(count), lambda trip: trip.mean
    )


@cache
def _one_way(effort: Effort, *names: str) -> Rounds:
    return _turns(names, effort, peers.ONE_WAY, lambda pair, count: pair.one_way(count), float)


@cache
def _bulk(effort: Effort, *names: str) -> Rounds:
    size = _BULK // effort.bulk_scale
    return _turns(names, effort, peers.BULK, lambda pair, count: pair.bulk(size, count), float, size)


def _slower(run: Rounds, ours: str, other: str, part: str) -> Measured:
    """How many times as long our round trip takes; `part` of it: p50 or mean."""
    mine, theirs = ([getattr(trip, part) for trip in run.of(name)] for name in (ours, other))
    said = f"{part} {time_text(median(mine))} against {time_text(median(theirs))} of {other}"
    return Measured(measure.ratio(mine, theirs), f"{said}, {len(mine)} rounds")


def _faster(run: Rounds, ours: str, other: str) -> Measured:
    """How many times as long theirs takes."""
    mine, theirs = ([trip.p50 for trip in run.of(name)] for name in (ours, other))
    said = f"p50 {time_text(median(mine))} against {time_text(median(theirs))} of {other}"
    return Measured(measure.ratio(theirs, mine), f"{said}, Python on both sides")


def _bandwidth(run: Rounds, ours: str, other: str, size: int) -> Measured:
    """Our bandwidth as a multiple of theirs."""
    mine, theirs = run.of(ours), run.of(other)
    speeds = [f"{size / median(ns):.3g}" for ns in (mine, theirs)]
    return Measured(measure.ratio(theirs, mine), f"{speeds[0]} GB/s against {speeds[1]} of {other}")


# ------------------------------------------------------------ shared memory


def _shm_c(effort: Effort) -> Rounds:
    return _round_trips(effort, SHM_C, LINES, UCX)


def c_round_trip_and_floor(effort: Effort) -> Measured:
    return _slower(_shm_c(effort), SHM_C, LINES, "mean")


def c_round_trip_and_ucx(effort: Effort) -> Measured:
    return _slower(_shm_c(effort), SHM_C, UCX, "p50")


def one_way(effort: Effort) -> Measured:
    """The rate in C as a multiple of 60 million a second, or of three times UCX's where that is less."""
    run = _one_way(effort, SHM_C, UCX, LINES)
    ours = run.of(SHM_C)
    try:
        wanted = [min(RATE_WANTED, 3e9 / ns) for ns in run.of(UCX)]
        ucx = f"UCX tag {1e3 / median(run.of(UCX)):.1f}"
    except NotHere as missing:
        wanted, ucx = [RATE_WANTED] * len(ours), str(missing)
    value = measure.ratio([1e9 / ns for ns in ours], wanted)
    floor = f"bare ring {1e3 / median(run.of(LINES)):.1f}"
    return Measured(value, f"M/s: {1e3 / median(ours):.1f}, {ucx}, {floor}")


def _python(effort: Effort) -> Rounds:
    return _round_trips(effort, SHM, UCXX, NIXL, GRPC)


def python_and_ucxx(effort: Effort) -> Measured:
    return _faster(_python(effort), SHM, UCXX)


def python_and_nixl(effort: Effort) -> Measured:
    return _faster(_python(effort), SHM, NIXL)


def python_and_grpc(effort: Effort) -> Measured:
    return _faster(_python(effort), SHM, GRPC)


def _shm_bulk(effort: Effort) -> Rounds:
    return _bulk(effort, SHM, UCX, NIXL)


def bulk_and_ucx(effort: Effort) -> Measured:
    return _bandwidth(_shm_bulk(effort), SHM, UCX, _BULK // effort.bulk_scale)


def bulk_and_nixl(effort: Effort) -> Measured:
    return _bandwidth(_shm_bulk(effort), SHM, NIXL, _BULK // effort.bulk_scale)


def sleeping(effort: Effort) -> Measured:
    """Round trips in which both sides sleep whenever they wait."""
    return _slower(_round_trips(effort, SLEEPING, FUTEX), SLEEPING, FUTEX, "mean")


# ------------------------------------------------------------ TCP on the loopback


def _tcp_bulk(effort: Effort) -> Rounds:
    return _bulk(effort, TCP, SOCKETS, SPINNING, UCX_TCP)


def tcp_bulk_and_sockets(effort: Effort) -> Measured:
    """Against raw sockets that block or that spin, whichever is faster in the whole run."""
    run = _tcp_bulk(effort)
    faster = min((SOCKETS, SPINNING), key=lambda name: median(run.of(name)))
    return _bandwidth(run, TCP, faster, _BULK // effort.bulk_scale)


def tcp_bulk_and_ucx(effort: Effort) -> Measured:
    return _bandwidth(_tcp_bulk(effort), TCP, UCX_TCP, _BULK // effort.bulk_scale)


def _tcp_round_trips(effort: Effort) -> Rounds:
    return _round_trips(effort, TCP_C, SPINNING, UCX_TCP)


def tcp_round_trip_and_sockets(effort: Effort) -> Measured:
    return _slower(_tcp_round_trips(effort), TCP_C, SPINNING, "mean")


def tcp_round_trip_and_ucx(effort: Effort) -> Measured:
    return _slower(_tcp_round_trips(effort), TCP_C, UCX_TCP, "p50")
