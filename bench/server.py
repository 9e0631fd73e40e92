"""A daemon of its own for a bench: started as its users start it, gone when the bench is."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import measure

_START = 60.0  # seconds: warming a worker loads the compiler
_LOOK = 0.1
_CALM_LOOKS = 3


@dataclass(frozen=True)
class Server:
    """address: for gpudisagg.connect. pid: of the daemon; its workers are below it."""

    address: str
    pid: int

    def settle(self) -> None:
        """Waits until the server and its workers do nothing: a pool refills behind a session, and would be
        measured too.

        RuntimeError: it did not calm down within a minute.
        """
        deadline = time.monotonic() + _START
        calm = 0
        while calm < _CALM_LOOKS:
            if time.monotonic() > deadline:
                raise RuntimeError("the server is still busy a minute after it was started")
            before = self.cpu_ns()
            time.sleep(_LOOK)
            calm = calm + 1 if self.cpu_ns() - before < _LOOK * 1e9 / 50 else 0

    def cpu_ns(self) -> int:
        """CPU time of the daemon and its workers so far, ns."""
        return sum(map(measure.cpu_ns, [self.pid, *measure.descendants(self.pid)]))


@contextmanager
def running(
    memory: str = "4GiB",
    workers: int = 1,
    log_level: str = "warning",
    listen: str = "shm",
    host: str = "127.0.0.1",
) -> Iterator[Server]:
    """`gpudisagg serve` on a private socket, or with `listen` "tcp" or "rdma" on a port of `host`.

    RuntimeError when it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="gpudisagg-bench-") as folder:
        address = f"unix://{folder}/s.sock" if listen == "shm" else f"{listen}://{host}:0"
        ends, kept = os.pipe()  # the daemon drains and ends once `kept` is closed, however we end
        command = [sys.executable, "-m", "gpudisagg", "serve", "--listen", address, "--workers", str(workers)]
        command += [
            "--memory",
            memory,
            "--host-memory",
            memory,
            "--until-closed",
            str(ends),
            "--log-level",
            log_level,
        ]
        if listen == "rdma":  # by an adapter's address, which is never the loopback's
            command.append("--allow-network")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(ends,))
        try:
            os.close(ends)
            yield Server(_await_ready(process), process.pid)
        finally:
            os.close(kept)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _await_ready(process: subprocess.Popen[bytes]) -> str:
    """The address that the server says it listens on."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _START)
    line = process.stdout.readline() if ready else b""
    said = re.search(r"listening on (\S+?)[,;]?(?:\s|$)", line.decode(errors="replace"))
    if said is None:
        raise RuntimeError(f"the server did not start (it said {line!r}); its errors are above")
    return said[1]
