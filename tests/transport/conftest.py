"""The ring alone, compiled for its test; pairs of connections; processes in a role."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cffi
import pytest

import transport
from tests.conftest import ROOT

SOURCES = ROOT / "csrc" / "transport"


def ring_cdef() -> str:
    """ring.h as cffi reads it: without comments, directives and the slot's alignment."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / "ring.h").read_text(), flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    text = text.replace("_Alignas(GPUD_SLOT_SIZE) ", "").replace("GPUD_SLOT_SIZE", "64")
    # The structs may grow and be reordered: only what the test uses is named.
    return re.sub(
        r"(typedef struct gpud_ring_\w+ {)(.*?)(})",
        lambda m: f"{m[1]}{m[2]} ...;{m[3]}",
        text,
        flags=re.DOTALL,
    )


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module with `ffi` and `lib` of ring.h."""
    folder = tmp_path_factory.mktemp("ring")
    ffi = cffi.FFI()
    ffi.cdef(ring_cdef())
    ffi.set_source(
        "_ring_under_test",
        '#include "ring.h"',
        sources=[str(SOURCES / "ring.c")],
        include_dirs=[str(SOURCES)],
        extra_compile_args=["-std=c11", "-O1", "-D_GNU_SOURCE"],
    )
    built = ffi.compile(tmpdir=str(folder))
    spec = importlib.util.spec_from_file_location("_ring_under_test", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- connections

# What the conformance suite runs over instead of what every machine has: names, or addresses to listen on
# ("rdma://10.77.0.1"), separated by commas.
CHOSEN = [one for one in os.environ.get("GPUDISAGG_TEST_ENDPOINTS", "").split(",") if one]
ENDPOINTS = CHOSEN or ["loop", "shm", "tcp"]
# By how much to divide what the suite does very often: for machines that are slow, such as the guest.
LESS = int(os.environ.get("GPUDISAGG_TEST_LESS", "1"))


class Endpoint:
    """A transport to run tests over. name: "loop", "shm", "tcp" or "verbs"."""

    def __init__(self, chosen: str, folder: Path) -> None:
        scheme, _, host = chosen.partition("://")
        self.name = {"rdma": "verbs"}.get(scheme, scheme)
        self.listens_at = {
            "shm": f"unix://{folder}/s.sock",
            "tcp": f"tcp://{host or '127.0.0.1'}:0",
            "verbs": f"rdma://{host}:0",
        }.get(self.name, "")

    def listen(self, **how: Any) -> transport.Listener:
        return transport.listen(self.listens_at, **how)

    def pair(self) -> tuple[transport.Connection, transport.Connection]:
        """(client, worker), both in this process."""
        if self.name == "loop":
            return transport.loop()
        with self.listen() as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(listener.accept, 30)
            client = transport.connect(str(listener.address), name="test", timeout=30)
            assert client.transport == self.name
            return client, accepted.result(30)


@pytest.fixture(params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest, short_path: Path) -> Endpoint:
    """Each transport there is."""
    return Endpoint(request.param, short_path)


@pytest.fixture(params=[one for one in ENDPOINTS if one != "loop"])
def remote(request: pytest.FixtureRequest, short_path: Path) -> Endpoint:
    """Each transport by which two processes can talk."""
    return Endpoint(request.param, short_path)


@pytest.fixture(params=[one for one in ENDPOINTS if one not in ("loop", "tcp")])
def reaching(request: pytest.FixtureRequest, short_path: Path) -> Endpoint:
    """Of those, each by which the worker reads the client's memory when it likes."""
    return Endpoint(request.param, short_path)


Pairs = Iterator[tuple[transport.Connection, transport.Connection]]


def _open(endpoint: Endpoint) -> Pairs:
    ends = endpoint.pair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def pair(endpoint: Endpoint) -> Pairs:
    """(client, worker) over each endpoint there is."""
    yield from _open(endpoint)


@pytest.fixture(params=[one for one in ENDPOINTS if one != "tcp"])
def reaching_pair(request: pytest.FixtureRequest, short_path: Path) -> Pairs:
    """(client, worker) over each endpoint by which the worker reads the client's memory when it likes. Over
    tcp bytes come and go with the command that copies them only.
    """
    yield from _open(Endpoint(request.param, short_path))


@pytest.fixture(params=[one for one in ENDPOINTS if one in ("loop", "shm")])
def mapping_pair(request: pytest.FixtureRequest, short_path: Path) -> Pairs:
    """(client, worker) over each endpoint by which both have the same pages."""
    yield from _open(Endpoint(request.param, short_path))


@pytest.fixture
def ends(short_path: Path) -> Pairs:
    """(client, worker) over shared memory."""
    yield from _open(Endpoint("shm", short_path))


class Process:
    """A real process in a role of peers.py; what it prints is read line by line, its standard input's end is
    its end.
    """

    def __init__(self, role: str, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.transport.peers", role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def line(self) -> str:
        """Its next line; "" once it has ended. pytest's timeout bounds the wait."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """Closes its standard input and waits for it: its exit status."""
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self.popen.stdin.close()
        return self.popen.wait()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(role: str, *arguments: str) -> Process:
        started.append(Process(role, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        for pipe in (one.popen.stdin, one.popen.stdout):
            if pipe is not None:
                pipe.close()
