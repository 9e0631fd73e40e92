"""A server of one's own, for functions on a machine that offers none: one for each process, for as long as it
lives.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, time

from gpudisagg.errors import DeadlineExceeded, SessionRefused

_NEEDS = ("click", "llvmlite")  # what the server has and the base install has not
_PREFIX, _SOCKET, _LOG = "gpudisagg-", "s.sock", "server.log"
_STOP_TIMEOUT = 5.0
_STALE = 3600.0  # seconds after which a directory without a socket is nobody's


class LocalServer:
    """A `gpudisagg serve` process on a socket in a private directory. It ends when this process does, however
    that comes.

    address: where it listens; its log lies beside the socket.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        missing = [name for name in _NEEDS if find_spec(name) is None]
        if missing:
            raise SessionRefused(
                "no address was given, GPUDISAGG_ADDRESS is not set, and a local server needs what is not "
                f"installed ({', '.join(missing)}): pip install 'gpudisagg[server]', or give an address"
            )
        self.pid = os.getpid()
        _sweep()
        self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX))  # 0700
        self.address = f"unix://{self._directory}/{_SOCKET}"
        self._alive: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(workers, timeout)
        except BaseException:
            self.stop()
            raise

    def _start(self, workers: int, timeout: float) -> None:
        # The server sees the other end close when this process ends, be it by kill -9.
        until_closed, self._alive = os.pipe()
        command = [
            *(sys.executable, "-m", "gpudisagg", "serve", "--listen", self.address),
            *("--workers", str(workers), "--spares", "0"),  # one process rarely has as many sessions
            *("--until-closed", str(until_closed)),
        ]
        log = self._directory / _LOG
        try:
            with log.open("wb") as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    pass_fds=(until_closed,),
                    start_new_session=True,  # Ctrl-C is the function's to handle
                )
        finally:
            os.close(until_closed)
        line = _first_line(self._process, timeout)
        if line is None:
            raise DeadlineExceeded(
                f"the local server was not ready within {timeout:g} s; give connect() more timeout"
            )
        if not line:
            self._process.wait(_STOP_TIMEOUT)
            said = log.read_text(errors="replace").strip()
            raise SessionRefused(
                f"the local server ended with status {self._process.returncode} before it was ready:\n"
                f"{said[-4000:]}"
            )

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends it and removes its directory. Twice is fine; in a forked child it only lets go."""
        alive, self._alive = self._alive, None
        if alive is not None:
            os.close(alive)
        process, self._process = self._process, None
        if process is not None:
            if process.stdout is not None:
                process.stdout.close()
            if os.getpid() == self.pid:
                try:
                    process.wait(_STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            else:
                process.returncode = 0  # it's the parent's child: nothing to reap here
        if os.getpid() == self.pid:
            shutil.rmtree(self._directory, ignore_errors=True)


def _sweep() -> None:
    """Removes what killed processes left: old directories with a log at most. A live server's has its socket
    in it.
    """
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time() - path.stat().st_mtime > _STALE and not (path / _SOCKET).exists():
                (path / _LOG).unlink(missing_ok=True)
                path.rmdir()


def _first_line(process: subprocess.Popen[bytes], timeout: float) -> bytes | None:
    """What the process says first, b"" if it ends without a word, None if it says nothing in time."""
    assert process.stdout is not None
    line, end = b"", monotonic() + timeout
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - monotonic()))
        if not ready:
            return None
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            return b""
        line += piece
    return line


_server: LocalServer | None = None
_lock = threading.Lock()


def local_address(timeout: float) -> str:
    """The address of this process's own server, started if need be. SessionRefused: it can't;
    DeadlineExceeded.
    """
    global _server
    if not _lock.acquire(timeout=timeout):
        raise DeadlineExceeded(
            f"another thread has been starting the local server for {timeout:g} s; try again"
        )
    try:
        if _server is not None and not _server.running():
            _server.stop()
            _server = None
        if _server is None:
            workers = max(2, min(4, len(os.sched_getaffinity(0))))
            _server = LocalServer(workers, timeout)
            print(
                f"gpudisagg: no GPUDISAGG_ADDRESS set, started a local server "
                f"(cpu device, {workers} workers)",
                file=sys.stderr,
            )
        return _server.address
    finally:
        _lock.release()


def _stop() -> None:
    global _server
    server, _server = _server, None
    if server is not None and server.pid == os.getpid():
        from gpudisagg.session import close_all

        close_all()  # a server with sessions would wait for their end
        server.stop()


def _forked() -> None:
    """In the child: the server is the parent's; this process keeps nothing of it open, and starts its own if
    it needs one.
    """
    global _server, _lock
    _lock = threading.Lock()
    server, _server = _server, None
    if server is not None:
        with contextlib.suppress(OSError):
            server.stop()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forked)
