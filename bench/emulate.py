"""A slower network than there is, in front of TCP addresses: `rtt=20us,bw=10Gbps`. By a program in C
(csrc/proxy.c) that holds each byte back for half of the round trip, and no link carries more than its rate.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SOURCE = Path(__file__).parent / "csrc" / "proxy.c"
_FLAGS = ["-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread"]
VARIABLE = "GPUDISAGG_BENCH_LINK"  # the link for a bench's other processes; empty: none
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_RATES = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}
_LEAST_BUFFER, _MOST_BUFFER = 1 << 18, 1 << 26
_UNLIMITED_BUFFER = 1 << 24
_START = 10.0


@dataclass(frozen=True)
class Link:
    """`rtt`: seconds that a round trip takes longer. `bandwidth`: bits a second each way; None: no limit."""

    rtt: float = 0.0
    bandwidth: float | None = None

    def __str__(self) -> str:
        rtt = f"rtt={round(self.rtt * 1e9)}ns"
        return rtt if self.bandwidth is None else f"{rtt},bw={round(self.bandwidth)}bps"

    @property
    def arguments(self) -> list[str]:
        """DELAY_NS BYTES_PER_S BUFFER of the program: the buffer holds what is under way, twice."""
        if self.bandwidth is None:
            rate, buffer = 0, _UNLIMITED_BUFFER
        else:
            rate = max(1, round(self.bandwidth / 8))
            buffer = min(max(_LEAST_BUFFER, round(rate * self.rtt)), _MOST_BUFFER)
        return [str(round(self.rtt * 1e9 / 2)), str(rate), str(buffer)]


def parse(text: str) -> Link:
    """`rtt=TIME`, `bw=RATE`, or both with a comma between; ValueError says what is wrong.

    TIME: a number with ns, us, ms or s. RATE: a number with bps, kbps, Mbps, Gbps or Tbps.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        units = {"rtt": _TIMES, "bw": _RATES}.get(name)
        if units is None or name in values:
            raise ValueError(f"{text!r}: a link is described as rtt=20us,bw=10Gbps, each at most once")
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Zµ]+)", value)
        if found is None or found[2] not in units:
            raise ValueError(f"{text!r}: {name} is a number with one of the units {', '.join(units)}")
        values[name] = float(found[1]) * units[found[2]]
    if values.get("bw") == 0 or values.get("rtt", 0.0) > 10:
        raise ValueError(f"{text!r}: bw is more than 0, and rtt at most 10 s")
    return Link(values.get("rtt", 0.0), values.get("bw"))


@functools.cache
def program() -> Path:
    """The proxy, built into the user's cache once per version of its source."""
    tag = _SOURCE.read_text(encoding="utf-8") + str(_FLAGS)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpudisagg" / "bench"
    built = cache / f"proxy-{hashlib.sha256(tag.encode()).hexdigest()[:12]}"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "proxy"
            subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(made)], check=True, timeout=120)
            made.replace(built)  # whole or not at all: two benches may build at once
    return built


@contextmanager
def proxy(host: str, port: int, link: Link) -> Iterator[int]:
    """A port of 127.0.0.1 from which connections go over `link` to `host`:`port`."""
    command = [str(program()), host, str(port), *link.arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _START)
        said = process.stdout.readline() if ready else b""
        if not said.strip().isdigit():
            raise RuntimeError(f"the proxy did not start (it said {said!r}); its errors are above")
        yield int(said)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def reached(address: str) -> Iterator[str]:
    """How `address` is reached from here: tcp:// through the link that VARIABLE describes, if any."""
    described = os.environ.get(VARIABLE, "")
    if not described or not address.startswith("tcp://"):
        yield address
        return
    parts = urlsplit(address)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{address!r} has no host and port")
    with proxy(parts.hostname, parts.port, parse(described)) as port:
        yield f"tcp://127.0.0.1:{port}"
