"""A server at the far end of a link, and clients at the near one, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.network.link import Link, Namespace

PATIENCE = 120.0  # seconds: it ends what hangs

# What every client begins with: `gpu`, `add(array, more)` with a kernel, `tell(...)` a line of JSON.
PREAMBLE = """
import json, sys, time
import numpy as np
import gpudisagg

PTX = '''.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 values, .param .u32 more)
{ .reg .u64 %a, %o; .reg .u32 %b, %n, %t, %v, %m;
  ld.param.u64 %a, [values]; ld.param.u32 %m, [more];
  mov.u32 %b, %ctaid.x; mov.u32 %n, %ntid.x; mov.u32 %t, %tid.x;
  mad.lo.u32 %t, %b, %n, %t; mul.wide.u32 %o, %t, 4; add.u64 %a, %a, %o;
  ld.global.u32 %v, [%a]; add.u32 %v, %v, %m; st.global.u32 [%a], %v; ret; }'''

def tell(**what):
    print(json.dumps(what), flush=True)

def add(array, more):
    module["add"][array.size // 256, 256](array, np.uint32(more))

gpu = gpudisagg.connect(sys.argv[1], timeout=100)
module = gpu.compile(PTX)
"""


class Process:
    """One that tells lines of JSON, or of text."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self._read = b""

    def line(self, limit: float = PATIENCE) -> str:
        assert self.process.stdout is not None
        while b"\n" not in self._read:
            assert select.select([self.process.stdout], [], [], limit)[0], self.said(f"silent for {limit} s")
            some = os.read(self.process.stdout.fileno(), 65536)
            assert some, self.said("ended")
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def told(self, limit: float = PATIENCE) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.line(limit))
        return told

    def said(self, what: str) -> str:
        return f"{what}; its log:\n{self.log.read_text(errors='replace')[-4000:]}"


class Served:
    """The server, and what is done to it from outside."""

    def __init__(self, link: Link, folder: Path, *listen: str) -> None:
        self.link = link
        self.folder = folder
        command = ["-m", "gpudisagg", "serve", "--allow-network", "--workers", "1", "--spares", "0"]
        command += ["--memory", "64MiB", "--threads", "1", "--cache-dir", str(folder / "cache")]
        command += [word for one in listen for word in ("--listen", one)]
        self._server = self._start(link.far, command)
        self.addresses = [self._server.line().split()[-1] for _ in listen]

    def _start(self, end: Namespace, arguments: list[str]) -> Process:
        log = self.folder / f"log{len(list(self.folder.glob('log*')))}"
        with log.open("wb") as stderr:
            process = end.popen(
                [sys.executable, *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                bufsize=0,
            )
        return Process(process, log)

    def client(self, program: str, address: str | None = None, end: Namespace | None = None) -> Process:
        """`program`, behind the preamble; at the near end unless told otherwise."""
        where = address or self.addresses[0]
        return self._start(end or self.link.near, ["-c", PREAMBLE + program, where])

    def status(self) -> dict[str, Any]:
        """What SIGUSR1 makes it say."""
        begin = self._server.log.stat().st_size
        self._server.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self._server.log.read_bytes()[begin:].splitlines(keepends=True):
                if line.startswith(b"{") and line.endswith(b"\n"):
                    said: dict[str, Any] = json.loads(line)
                    return said
            time.sleep(0.02)
        raise AssertionError(self._server.said("no status"))

    def until(self, condition: Callable[[dict[str, Any]], object], limit: float) -> float:
        """How many seconds until its status is so."""
        begin = time.monotonic()
        while not condition(status := self.status()):
            assert time.monotonic() < begin + limit, self._server.said(f"after {limit} s still {status}")
            time.sleep(0.1)
        return time.monotonic() - begin

    def until_free(self, limit: float) -> float:
        return self.until(lambda status: status["workers"]["warm"] == 1 and not status["sessions"], limit)

    def stop(self) -> None:
        self._server.process.terminate()
        assert self._server.process.wait(PATIENCE) == 0, self._server.said("did not stop well")
        assert "Traceback" not in self._server.log.read_text(), self._server.said("an error")


@contextlib.contextmanager
def served(link: Link, folder: Path, *listen: str) -> Iterator[Served]:
    """Ends in an orderly way if the test did; the link's end kills what is left."""
    server = Served(link, folder, *(listen or (f"tcp://{link.far.address}:0",)))
    yield server
    server.stop()
