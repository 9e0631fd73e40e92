"""Us, the floors and every peer that is installed, interleaved in one run."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from bench import emulate, measure, peers
from bench.peers import Kind, Pair, RoundTrips
from bench.row import NotHere

T = TypeVar("T")

SIZES = tuple(64 * 4**i for i in range(11))  # 64 B .. 64 MiB


@dataclass(frozen=True)
class Extent:
    """How much to measure. `slice`: seconds that one peer is measured for before the next has its turn."""

    rounds: int = 5
    bulk_rounds: int = 3
    slice: float = 0.1
    sizes: tuple[int, ...] = SIZES

    @classmethod
    def smoke(cls) -> Extent:
        """Only shows that everything runs."""
        return cls(rounds=1, bulk_rounds=1, slice=0.002, sizes=(64, 4096))


@dataclass
class Series:
    """What was measured of one peer. Times in ns, all of them medians of the rounds."""

    name: str
    role: str
    round_trip: dict[str, float] | None = None  # p50, p99, mean
    one_way: float | None = None  # ns a message
    bulk: dict[int, float] = field(default_factory=dict)  # size -> ns a transfer


def print_now(line: str) -> None:
    """Also where the output goes to a file: what takes minutes is watched."""
    print(line, flush=True)


class Run:
    """The peers that are open; those that cannot be, or fail on the way, are left out and remembered."""

    def __init__(self, interpreter: str = sys.executable, say: Callable[[str], None] = print_now) -> None:
        self.absent: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.series: dict[str, Series] = {}
        self._interpreter, self._say = interpreter, say
        self._open: dict[str, tuple[Kind, Pair]] = {}
        self._stack = ExitStack()

    def open(self, kinds: Iterable[Kind], largest: int) -> None:
        for kind in kinds:
            try:
                pair = kind.open(self._interpreter, largest)
            except NotHere as missing:
                self.absent[kind.name] = str(missing)
                self._say(f"n/a     {missing}")
            except (peers.PeerFailed, OSError) as error:
                self._fail(kind.name, error)
            else:
                self._stack.callback(pair.close)
                self._open[kind.name] = (kind, pair)
                self.series[kind.name] = Series(kind.name, kind.role)

    def _fail(self, name: str, error: Exception) -> None:
        self.failed[name] = str(error)
        self._open.pop(name, None)
        self._say(f"FAILED  {name}: {error}")

    def turns(
        self, does: str, slice_: float, rounds: int, call: Callable[[Pair, int], T], ns: Callable[[T], float]
    ) -> dict[str, list[T]]:
        """`call(pair, count)` of every peer that `does` it, `rounds` times in turn, each for about `slice_`
        seconds.

        `ns`: how long one of the `count` took.
        """
        counts: dict[str, int] = {}
        got: dict[str, list[T]] = {}

        def attempt(name: str, count: int) -> T | None:
            try:
                return call(self._open[name][1], count)
            except (peers.PeerFailed, OSError) as error:
                self._fail(name, error)
                return None

        for name in [name for name, (kind, _) in self._open.items() if does in kind.does]:
            count = 3 if does == peers.BULK else 200
            while (first := attempt(name, count)) is not None:
                # Few are slow for being the first: so more, until they take a noticeable part of a slice.
                if ns(first) * count * 16 >= slice_ * 1e9 or count > 100_000:
                    counts[name] = enough(slice_ * 1e9, ns(first))
                    got[name] = []
                    break
                count *= 16
        for turn in range(rounds):
            names = [name for name in counts if name in self._open]
            for name in names if turn % 2 == 0 else reversed(names):
                measured = attempt(name, counts[name])
                if measured is not None:
                    got[name].append(measured)
        return {name: values for name, values in got.items() if len(values) == rounds}

    def messages(self, extent: Extent) -> None:
        rounds = self.turns(
            peers.MESSAGES, extent.slice, extent.rounds, lambda p, n: p.round_trips(n), lambda r: r.mean
        )
        for name, values in rounds.items():
            self.series[name].round_trip = middle_of(values)
        rates = self.turns(peers.ONE_WAY, extent.slice, extent.rounds, lambda p, n: p.one_way(n), float)
        for name, times in rates.items():
            self.series[name].one_way = median(times)

    def bulk(self, extent: Extent) -> None:
        for size in extent.sizes:
            self._say(f"bulk of {size} bytes")

            def call(pair: Pair, count: int, size: int = size) -> float:
                return pair.bulk(size, count)

            for name, times in self.turns(peers.BULK, extent.slice, extent.bulk_rounds, call, float).items():
                self.series[name].bulk[size] = median(times)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def enough(slice_ns: float, each_ns: float) -> int:
    """How many fill a slice: at least 3, at most 10 million."""
    return int(min(max(slice_ns / max(each_ns, 1e-3), 3), 10_000_000))


def middle_of(rounds: Sequence[RoundTrips]) -> dict[str, float]:
    return {name: median(asdict(round_)[name] for round_ in rounds) for name in ("p50", "p99", "mean")}


def machine() -> dict[str, str]:
    """What the figures belong to."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    from gpudisagg._version import __version__

    return {
        "cpu": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gpudisagg": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


# Those that go through an emulated link: over TCP, to an address that we hand them.
_LINKED = ("gpudisagg tcp", "gpudisagg tcp, C", "tcp socket", "tcp socket, spinning")


def chosen(only: str | None, link: emulate.Link | None) -> list[Kind]:
    """The peers to measure. `only`: names, separated by semicolons; ValueError for one that is none."""
    kinds = [kind for kind in peers.KINDS if link is None or kind.name in _LINKED]
    if only is None:
        return kinds
    wanted = {name.strip() for name in only.split(";")}
    unknown = wanted - {kind.name for kind in kinds}
    if unknown:
        known = "; ".join(kind.name for kind in kinds)
        raise ValueError(f"no peer {', '.join(sorted(unknown))} here; there is: {known}")
    return [kind for kind in kinds if kind.name in wanted]


def compare(
    kinds: Sequence[Kind],
    extent: Extent,
    interpreter: str = sys.executable,
    link: emulate.Link | None = None,
    say: Callable[[str], None] = print_now,
) -> dict[str, Any]:
    """Measures everything; the result is what `bench plot` reads."""
    noise = measure.Noise()
    before = os.environ.get(emulate.VARIABLE)
    os.environ[emulate.VARIABLE] = "" if link is None else str(link)
    try:
        with Run(interpreter, say) as run:
            run.open(kinds, max(extent.sizes))
            run.messages(extent)
            run.bulk(extent)
    finally:
        if before is None:
            del os.environ[emulate.VARIABLE]
        else:
            os.environ[emulate.VARIABLE] = before
    return {
        "machine": machine(),
        "link": None if link is None else str(link),
        "versions": peers.versions(interpreter),
        "noise": {"stolen": noise.stolen(), "others": noise.others()},
        "series": [asdict(series) for series in run.series.values()],
        "absent": run.absent,
        "failed": run.failed,
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as text: round trip p50 and p99, one-way rate, GB/s by size."""
    sizes = sorted({int(size) for series in result["series"] for size in series["bulk"]})
    heads = ["", "rtt p50", "p99", "one way", *(f"{size_text(size)}" for size in sizes)]
    rows = [heads]
    for series in result["series"]:
        trip, one_way = series["round_trip"], series["one_way"]
        speeds = {int(size): int(size) / ns for size, ns in series["bulk"].items()}
        rows.append(
            [
                series["name"],
                time_text(trip["p50"]) if trip else "",
                time_text(trip["p99"]) if trip else "",
                f"{1e3 / one_way:.3g} M/s" if one_way else "",
                *(f"{speeds[size]:.3g}" if size in speeds else "" for size in sizes),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.append("Round trips and one way: of 64 bytes. By size: GB/s, each transfer acknowledged.")
    lines += [f"n/a: {reason}" for reason in dict.fromkeys(result["absent"].values())]
    lines += [f"failed: {name}: {reason}" for name, reason in result["failed"].items()]
    return "\n".join(lines)


def time_text(ns: float) -> str:
    for unit, scale in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < 1000 * scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def size_text(size: int) -> str:
    for unit, scale in (("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)):
        if size < 1024 * scale:
            return f"{size // scale} {unit}"
    return f"{size >> 30} GiB"


def write(result: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
