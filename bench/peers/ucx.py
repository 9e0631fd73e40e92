"""UCX in C, by its own `ucx_perftest`: tagged messages, and put for bulk. Endpoints without the detection of
dead peers, as it measures by default.

It does not check what arrives, and its put is not acknowledged by the other side: both are to its advantage.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import measure
from bench.peers.pair import PeerFailed, RoundTrips

_START = 10.0
_PATIENCE = 120.0
# Shared memory without copies by the kernel, which are slower here; and TCP on the loopback.
ENVIRONMENTS = {
    "shm": {"UCX_TLS": "posix,self"},
    "tcp": {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "lo"},
}


def environment(tool: Path, variant: str) -> dict[str, str]:
    """For a ucx_perftest that lies in a wheel, beside its libraries."""
    variables = {**os.environ, **ENVIRONMENTS[variant], "UCX_WARN_UNUSED_ENV_VARS": "n"}
    libraries = tool.parent.parent / "lib"
    if (libraries / "ucx").is_dir():
        variables |= {"LD_LIBRARY_PATH": str(libraries), "UCX_MODULE_DIR": str(libraries / "ucx")}
    return variables


def parse(printed: str) -> list[dict[str, float]]:
    """The rows of what `ucx_perftest -f -v` prints: column -> figure. Other lines are passed over."""
    rows = []
    names: list[str] = []
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if cells[0] == "iterations":
            names = ["percentile" if "percentile" in name else name for name in cells]
        elif names and len(cells) == len(names):
            try:
                rows.append(dict(zip(names, map(float, cells), strict=True)))
            except ValueError:
                continue
    return rows


class Perftest:
    """A Pair that starts the two programs anew for every measurement."""

    def __init__(self, tool: Path, variant: str) -> None:
        self._tool, self._environment = tool, environment(tool, variant)
        self._cpus = measure.two_cpus()

    def _run(self, arguments: Sequence[str]) -> dict[str, float]:
        port = _free_port()
        command = [str(self._tool), "-p", str(port)]
        here, there = ([] if cpu is None else ["-c", str(cpu)] for cpu in self._cpus)
        quiet = subprocess.DEVNULL
        server = subprocess.Popen([*command, *there], env=self._environment, stdout=quiet, stderr=quiet)
        try:
            _await_listener(port, server)
            client = subprocess.run(
                [*command, *here, "127.0.0.1", "-f", "-v", *arguments],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
            )
        finally:
            _end(server)
        rows = parse(client.stdout)
        if not rows:
            raise PeerFailed(
                f"ucx_perftest {' '.join(arguments)}: {(client.stdout + client.stderr)[-300:]!r}"
            )
        return rows[-1]

    def round_trips(self, count: int) -> RoundTrips:
        test = ["-t", "tag_lat", "-s", "64", "-n", str(count), "-w", "1000"]
        typical, tail = self._run(test), self._run([*test, "-R", "99"])
        # Microseconds one way, which is half of the way there and back.
        return RoundTrips(
            p50=typical["percentile"] * 2e3, p99=tail["percentile"] * 2e3, mean=typical["overall_lat"] * 2e3
        )

    def one_way(self, count: int) -> float:
        row = self._run(["-t", "tag_bw", "-s", "64", "-n", str(count), "-w", "1000"])
        return 1e9 / row["overall_mr"]

    def bulk(self, size: int, count: int) -> float:
        row = self._run(["-t", "ucp_put_bw", "-s", str(size), "-n", str(count), "-w", str(min(count, 10))])
        return size / (row["overall_bw"] * 2**20) * 1e9

    def close(self) -> None:
        """Nothing is open between two measurements."""


def _free_port() -> int:
    """A port that nobody listens on: another may take it before we do, so it is drawn, not asked for."""
    for _ in range(100):
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise PeerFailed("no free port between 20000 and 30000")


def _listening(port: int) -> bool:
    wanted = f":{port:04X}"
    rows = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return any(
        row.split()[1].endswith(wanted) and row.split()[3] == "0A"
        for row in rows.splitlines()
        if wanted in row
    )


def _await_listener(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START
    while not _listening(port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise PeerFailed("ucx_perftest's server does not listen")
        time.sleep(0.01)


def _end(server: subprocess.Popen[bytes]) -> None:
    try:
        server.wait(3)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def find(folders: Mapping[str, str]) -> Path | None:
    """The program: of the wheel `libucx` where `folders` (package -> its folder) has it, else on PATH."""
    if "libucx" in folders:
        wheel = Path(folders["libucx"]) / "bin" / "ucx_perftest"
        if wheel.exists():
            return wheel
    found = shutil.which("ucx_perftest")
    return Path(found) if found else None
