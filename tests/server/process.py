"""A real daemon with real workers, as `gpudisagg serve` starts them, and clients that can be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transport import address, wire

DEADLINE = 60.0  # generous: it ends what hangs


def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for `condition` to hold; what it returned then."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    pytest.fail(f"after {DEADLINE:g} s still not: {what}")


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not yet reaped by whoever owns it does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line of its stdout; "" at its end."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], DEADLINE)
    assert readable, f"no line from {process.args!r} within {DEADLINE:g} s"
    return process.stdout.readline()


class Server:
    """`gpudisagg serve` in a process of its own."""

    def __init__(
        self,
        folder: Path,
        flags: tuple[str, ...],
        environ: dict[str, str],
        listen: str | None = None,
        **popen: Any,
    ) -> None:
        self.folder = folder
        self.path = folder / "s.sock"
        self.address = listen or f"unix://{self.path}"
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "gpudisagg", "serve", "--listen", self.address]
        command += ["--cache-dir", str(folder / "cache"), "--log-level", "debug"]
        command += ["--spares", "0", *flags]  # tests say how many warm workers there are
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **environ},
                **popen,
            )
        self.seen: set[int] = set()

    def wait_ready(self) -> Server:
        line = read_line(self.process)
        asked = self.address.removesuffix(":0")  # a free port: now it is known which
        assert line.startswith(f"gpudisagg: listening on {asked}"), self.log.read_text()
        self.address = line.split()[-1]
        return self

    def also(self) -> str:
        """The next address that it listens on: said at once with the first, and perhaps read with it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().removeprefix("gpudisagg: listening on ").strip()

    def status(self) -> dict[str, Any]:
        """What SIGUSR1 makes it say."""
        start = self.log.stat().st_size
        self.process.send_signal(signal.SIGUSR1)

        def said() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log.read_text()
            for line in self.log.read_bytes()[start:].splitlines(keepends=True):
                if line.startswith(b"{") and line.endswith(b"\n"):
                    found: dict[str, Any] = json.loads(line)
                    return found
            return None

        status: dict[str, Any] = until(said, "a status line")
        self.seen.update(status["pids"])
        return status

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> Any:
        return until(lambda: condition(self.status()), what)

    def until_warm(self, workers: int = 1) -> dict[str, Any]:
        status: dict[str, Any] = self.until(
            lambda s: s if s["workers"]["warm"] == workers else None, f"{workers} warm workers"
        )
        return status

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(DEADLINE)

    def hello(self, **fields: Any) -> socket.socket:
        """A client that has said HELLO, and reads nothing yet."""
        client = self.open()
        client.sendall(wire.encode_hello(wire.Hello(deadline_ms=60_000, **fields)))
        return client

    def open(self) -> socket.socket:
        """A client that has connected, and says nothing yet."""
        place = address.parse(self.address)
        if place.scheme != "unix":
            return socket.create_connection((place.host, place.port), DEADLINE)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(place.path)
        return client


def read_frame(client: socket.socket) -> bytes:
    """All bytes of the one frame the server sends."""
    frame = b""
    while (size := wire.frame_size(frame)) == 0 or len(frame) < size:
        some = client.recv((size or 16) - len(frame))
        assert some, f"hung up after {len(frame)} bytes"
        frame += some
    return frame


def read_refusal(client: socket.socket) -> wire.RefusedFrame:
    """Why the server says no; and that it hangs up then."""
    refusal = wire.decode_refused(read_frame(client))
    assert client.recv(1) == b""
    return refusal
