"""The other process of a ping-pong: `python -m bench.peer floor|echo ...`, told what to do line by line on
its standard input.

It ends when its standard input does, so it never outlives the bench.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

_PATIENCE = 30.0  # seconds for an answer: a peer that is silent for longer has failed


class Peer:
    """A child process in conversation. A context manager: leaving it ends the process."""

    def __init__(self, arguments: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            bufsize=0,
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        """One line to the process. BrokenPipeError: it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def expect(self, line: str) -> None:
        """Waits for exactly this line. RuntimeError: something else came, or nothing for 30 s."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + _PATIENCE
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not part:
                what = "ended" if ready else f"said nothing for {_PATIENCE:.0f} s"
                raise RuntimeError(f"the bench's other process {what}; its errors are above")
            self._unread += part
        got, self._unread = self._unread.split(b"\n", 1)
        if got.decode() != line:
            raise RuntimeError(f"the bench's other process said {got.decode()!r}, not {line!r}")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


def _pin(cpu: int) -> None:
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})


def _serve_floor(fd: int, cpu: int) -> None:
    """Answers cache-line ping-pongs: "serve FIRST ROUNDS" -> "ready", then "done" when the rounds are
    through.
    """
    import mmap

    from bench.floor import load

    floor = load()
    _pin(cpu)
    memory = floor.ffi.from_buffer(mmap.mmap(fd, mmap.PAGESIZE))
    for line in sys.stdin:
        _, first, rounds = line.split()
        _say("ready")
        if floor.lib.floor_serve(memory, int(first), int(rounds)) != 0:
            sys.exit("the floor's client was silent for 10 s")
        _say("done")


def _serve_echo(address: str, cpu: int) -> None:
    """One connection's messages back to their sender, all in C, until the bench hangs up."""
    import transport
    from transport._transport import lib

    with transport.listen(address) as listener:
        _say("listening")
        with listener.accept(timeout=_PATIENCE) as connection:
            _pin(cpu)  # after the handshake: a process that starts out on one CPU does not spin
            lib.gpud_connection_echo(connection.pointer, lib.gpud_now() + 600 * 10**9)


if __name__ == "__main__":
    kind, what, where = sys.argv[1:]
    if kind == "floor":
        _serve_floor(int(what), int(where))
    else:
        _serve_echo(what, int(where))
