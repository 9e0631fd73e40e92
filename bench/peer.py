"""A bench's other processes, in conversation line by line; and `python -m bench.peer floor|echo ...`, the
other end of a ping-pong.

They end when their standard input does, so they never outlive the bench.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PATIENCE = 30.0  # seconds for an answer: a peer that is silent for longer has failed
_ROOT = Path(__file__).resolve().parents[1]


class Peer:
    """A child process `interpreter -m module arguments...`. A context manager: leaving it ends the process.

    `pass_fds`: descriptors that it inherits. `environment`: variables that it has besides ours.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        pass_fds: Sequence[int] = (),
        *,
        module: str = "bench.peer",
        interpreter: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [interpreter, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        """One line to the process. BrokenPipeError: it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def hear(self, patience: float = _PATIENCE) -> str:
        """The next line from the process. RuntimeError: it ended, or said nothing for `patience` seconds."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                what = "ended" if ready else f"said nothing for {patience:.0f} s"
                raise RuntimeError(f"the bench's other process {what}; its errors are above")
            self._unread += part
        got, self._unread = self._unread.split(b"\n", 1)
        return got.decode()

    def expect(self, line: str) -> None:
        """Waits for exactly this line. RuntimeError: something else came, or nothing for 30 s."""
        got = self.hear()
        if got != line:
            raise RuntimeError(f"the bench's other process said {got!r}, not {line!r}")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def kill(self) -> None:
        """Ends it at once: for one that hangs. close() is still due."""
        self._process.kill()

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
    memory = floor.ffi.from_buffer(mmap.mmap(fd, floor.lib.FLOOR_MEMORY))
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
