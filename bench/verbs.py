"""RDMA, on a machine that has a device: bulk beside perftest's ib_read_bw and ib_write_bw in the same run."""

from __future__ import annotations

import ipaddress
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import gpudisagg

from . import measure, server
from .row import Effort, Measured, NotHere

SYSFS = Path("/sys/class/infiniband")
_SIZE = 1 << 20
_AT_ONCE = 8  # transfers that are posted before the wait
_PATIENCE = 120.0


@dataclass(frozen=True)
class Device:
    """An RDMA device, and the entry of its table of addresses that is an IPv4 address (RoCE v2)."""

    name: str
    gid_index: int
    host: str


def address_of(gid: str) -> str | None:
    """The IPv4 address in a GID as sysfs writes it; None where it has none."""
    mapped = ipaddress.IPv6Address(gid.strip()).ipv4_mapped
    return None if mapped is None else str(mapped)


def find(sysfs: Path = SYSFS) -> Device:
    """The first device that can be reached by an IPv4 address. NotHere."""
    for device in sorted(sysfs.glob("*")):
        for entry in sorted((device / "ports/1/gids").glob("*"), key=lambda path: int(path.name)):
            host = address_of(entry.read_text(encoding="ascii"))
            kind = device / "ports/1/gid_attrs/types" / entry.name
            if host is not None and "v2" in kind.read_text(encoding="ascii"):
                return Device(device.name, int(entry.name), host)
    raise NotHere(
        "no RDMA device with an IPv4 address here: run `python -m bench verbs` on a machine that has one, "
        "or in the guest of tests/rdma"
    )


def parse_perftest(printed: str, size: int) -> float:
    """Average bytes a second, from what an ib_*_bw with --report_gbits prints. ValueError: there is none."""
    for line in printed.splitlines():
        cells = line.split()
        if len(cells) >= 4 and cells[0] == str(size):
            return float(cells[3]) * 1e9 / 8
    raise ValueError(f"no bandwidth in what perftest printed: {printed[-300:]!r}")


def perftest(tool: str, device: Device, rounds: int) -> float:
    """Bytes a second of `tool` between two processes of this machine. NotHere: perftest is not installed."""
    program = shutil.which(tool)
    if program is None:
        raise NotHere(f"{tool} is not installed: apt-get install perftest")
    command = [program, "-d", device.name, "-x", str(device.gid_index), "-F", "--report_gbits"]
    command += ["-s", str(_SIZE), "-n", str(max(rounds, 5)), "-p", str(random.randrange(20_000, 30_000))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as listening:
        try:
            end = time.monotonic() + _PATIENCE
            while True:  # its server says nothing when it listens: the client tries until it does
                ran = subprocess.run(
                    [*command, device.host], capture_output=True, text=True, timeout=_PATIENCE, check=False
                )
                if ran.returncode == 0:
                    return parse_perftest(ran.stdout, _SIZE)
                if listening.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{tool} failed: {(ran.stdout + ran.stderr)[-300:]}")
                time.sleep(0.2)
        finally:
            listening.kill()


@contextmanager
def _session(device: Device) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """A session, host arrays with different bytes, and as many device arrays, of 1 MiB each."""
    with server.running(memory="256MiB", listen="rdma", host=device.host) as served:
        with gpudisagg.connect(served.address, memory="64MiB", host_memory="64MiB") as session:
            random_bytes = np.random.default_rng(0)
            hosts = [
                session.host_array(random_bytes.integers(0, 256, _SIZE, np.uint8)) for _ in range(_AT_ONCE)
            ]
            arrays = [session.zeros((_SIZE,), np.uint8) for _ in range(_AT_ONCE)]
            served.settle()
            yield session, hosts, arrays


def _row(
    effort: Effort, tool: str, move: Callable[[Any, Any], None], check: Callable[[Any, Any], bool]
) -> Measured:
    device = find()
    transfers = max(_AT_ONCE, effort.verbs_transfers)
    with _session(device) as (session, hosts, arrays):

        def subject() -> float:
            begin = time.perf_counter()
            for i in range(transfers):
                move(arrays[i % _AT_ONCE], hosts[i % _AT_ONCE])
            session.synchronize()
            return transfers * _SIZE / (time.perf_counter() - begin)

        subject()
        speeds = measure.interleave(
            {"ours": subject, tool: lambda: perftest(tool, device, transfers)}, effort.verbs_rounds
        )
        if not all(check(array, host) for array, host in zip(arrays, hosts, strict=True)):
            raise RuntimeError("other bytes arrived than were sent: what was measured means nothing")
    said = ", ".join(f"{name} {median(values) / 1e6:.1f}" for name, values in speeds.items())
    return Measured(measure.ratio(speeds["ours"], speeds[tool]), f"MB/s on {device.name}: {said}")


def upload(effort: Effort) -> Measured:
    """Host arrays of 1 MiB to the device, several posted at once: the worker reads them."""
    return _row(
        effort,
        "ib_read_bw",
        lambda array, host: array.set(host, blocking=False),
        lambda array, host: bool(np.array_equal(array.get(), host)),
    )


def download(effort: Effort) -> Measured:
    """The device to host arrays of 1 MiB, several posted at once: the worker writes them."""

    def move(array: Any, host: Any) -> None:
        array.get(out=host, blocking=False)

    def check(array: Any, host: Any) -> bool:
        array.set(np.random.default_rng(1).integers(0, 256, _SIZE, np.uint8))
        move(array, host)
        array.session.synchronize()
        return bool(np.array_equal(array.get(), host))

    return _row(effort, "ib_write_bw", move, check)
