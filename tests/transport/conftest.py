"""The ring alone, compiled for its test; pairs of connections; processes in a role."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
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


def shm_pair(address: str) -> tuple[transport.Connection, transport.Connection]:
    """(client, worker) over shared memory, both in this process."""
    with transport.listen(address) as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept, 30)
        client = transport.connect(address, name="test", timeout=30)
        return client, accepted.result(30)


@pytest.fixture(params=["loop", "shm"])
def pair(
    request: pytest.FixtureRequest, address: str
) -> Iterator[tuple[transport.Connection, transport.Connection]]:
    """(client, worker) over each endpoint there is."""
    ends = transport.loop() if request.param == "loop" else shm_pair(address)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def ends(address: str) -> Iterator[tuple[transport.Connection, transport.Connection]]:
    """(client, worker) over shared memory."""
    both = shm_pair(address)
    yield both
    for end in both:
        end.close()


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
