"""Servers for tests that see a session from outside only: the same tests on every transport."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Where a server may listen, by the endpoint's name. GPUDISAGG_TEST_ENDPOINTS chooses others, as it does for
# the conformance suite: names of these, or addresses without a port ("rdma://10.77.0.1").
LISTEN: dict[str, Callable[[Path], str]] = {
    "shm": lambda folder: f"unix://{folder}/s.sock",
    "tcp": lambda _: "tcp://127.0.0.1:0",
}
CHOSEN = [one for one in os.environ.get("GPUDISAGG_TEST_ENDPOINTS", "").split(",") if one]
ENDPOINTS = [one for one in CHOSEN if one in LISTEN or "://" in one] if CHOSEN else list(LISTEN)


def listening(endpoint: str, folder: Path) -> list[str]:
    """The options of a server for this endpoint. At an address that was chosen, the network is meant too."""
    if endpoint in LISTEN:
        return ["--listen", LISTEN[endpoint](folder)]
    return ["--listen", f"{endpoint}:0", "--allow-network"]


@contextlib.contextmanager
def serving(endpoint: str, *options: str) -> Iterator[str]:
    """The address of a server that ends, in an orderly way, with the block."""
    with tempfile.TemporaryDirectory(prefix="gpud-") as name:
        folder = Path(name)
        log = folder / "log"
        command = [sys.executable, "-m", "gpudisagg", "serve", *listening(endpoint, folder)]
        command += ["--cache-dir", str(folder / "cache"), *options]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("gpudisagg: listening on "), log.read_text()
            yield line.rstrip("\n").removeprefix("gpudisagg: listening on ")
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(scope="module", params=ENDPOINTS)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with serving(request.param, "--workers", "2", "--memory", "64MiB", "--threads", "2") as place:
        yield place
