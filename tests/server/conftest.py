"""What tests of the server share: servers and clients that end with their test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.process import Server

# For tests of what is the same over all transports: both kinds of socket that every machine has.
over_each = pytest.mark.parametrize("over", ["unix", "tcp"], indirect=True)


LISTEN = {"unix": None, "tcp": "tcp://127.0.0.1:0"}  # None: a socket in the server's folder


@pytest.fixture
def over(request: pytest.FixtureRequest) -> str | None:
    """Where servers of this test listen first."""
    return LISTEN[getattr(request, "param", "unix")]


@pytest.fixture
def start(short_path: Path, over: str | None) -> Iterator[Callable[..., Server]]:
    """start(*flags, environ={}, ready=True): a server that is ended, killed if it must be, with the test."""
    servers: list[Server] = []

    def make(*flags: str, environ: dict[str, str] | None = None, ready: bool = True, **popen: Any) -> Server:
        folder = short_path / str(len(servers))
        folder.mkdir(exist_ok=True)
        server = Server(folder, flags, environ or {}, over, **popen)
        servers.append(server)
        return server.wait_ready() if ready else server

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(30)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """spawn(code, *args): a Python process to play a client; it ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def make(code: str, *args: str, **popen: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **popen,
        )
        processes.append(process)
        return process

    yield make
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
