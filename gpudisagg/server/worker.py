"""A worker process: a warm device and compiler that serve one session after another.

    python -m gpudisagg.server.worker --control FD ...

The main thread runs the engine. A second one listens to the daemon and for SIGTERM, since the first is in C
for as long as a session lasts. When the daemon is gone the session goes on, and the process ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gpudisagg.server import handoff

if TYPE_CHECKING:  # imported when there is somebody to tell that it does not work: main()
    from gpudisagg.device.cpu.compiler import CpuCompiler
    from gpudisagg.server.engine import Engine

log = logging.getLogger("gpudisagg.worker")


class Worker:
    """Serves the sessions that the daemon hands over on `control`, which it owns."""

    def __init__(self, control: socket.socket, engine: Engine, compiler: CpuCompiler) -> None:
        self._control = control
        self._engine = engine
        self._compiler = compiler
        self._jobs: queue.SimpleQueue[tuple[handoff.Job, int] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    def serve(self) -> int:
        """Until told to stop, or the daemon is gone, or a session left this process in doubt. The exit
        status.
        """
        from gpudisagg.server.session import Session

        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The C-level handler writes to the pipe at once, whatever the main thread is doing.
        signal.set_wakeup_fd(wakeup_write)
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self._listen, args=(wakeup_read,), name="control", daemon=True).start()
        self._say(handoff.Ready(self._compiler.description.name))
        while (next_job := self._jobs.get()) is not None:
            job, client = next_job
            ended = Session(self._engine, self._compiler, job, self._stopping).serve(client)
            self._say(ended)
            if not ended.reusable:
                return handoff.EXIT_RETIRED
        return 0

    def _say(self, message: handoff.Message) -> None:
        with contextlib.suppress(OSError):  # the daemon is gone: _listen sees it too
            handoff.send(self._control, message)

    def _listen(self, wakeup: int) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wakeup:
                    if signal.SIGTERM in os.read(wakeup, 64):
                        self._stop()
                elif not self._hear():
                    poll.unregister(self._control)
                    self._jobs.put(None)

    def _hear(self) -> bool:
        """Takes one message from the daemon; False when there will be none any more."""
        try:
            received = handoff.receive(self._control)
        except (OSError, handoff.HandoffError) as error:
            log.error("the control socket failed, this worker ends with its session: %s", error)
            return False
        if received is None:
            return False
        message, fd = received
        if isinstance(message, handoff.Job) and fd is not None:
            self._jobs.put((message, fd))
            return True
        if fd is not None:
            socket.close(fd)
        if isinstance(message, handoff.Stop):
            self._stop()
        return True

    def _stop(self) -> None:
        self._stopping.set()
        self._engine.interrupt()
        self._jobs.put(None)


def window_size(memory: int, host_memory: int) -> int:
    """Address space for a session's device and host memory, with room for what fragmentation wastes: a power
    of two, bytes.
    """
    return int(max(1 << 36, 1 << (4 * (memory + host_memory) - 1).bit_length()))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gpudisagg.server.worker", description="One warm worker process."
    )
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="the socket to the daemon")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory", type=int, required=True, metavar="BYTES")
    parser.add_argument("--host-memory", type=int, required=True, metavar="BYTES")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--log-level", default="info")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Starts warm or says why not; the exit status."""
    args = _parse(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=args.log_level.upper(),
        format=f"%(asctime)s %(levelname)s worker {os.getpid()}: %(message)s",
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is the daemon's to act upon
    control = socket.socket(fileno=args.control)
    try:
        from gpudisagg.device.cpu.compiler import CpuCompiler
        from gpudisagg.server.engine import Engine

        threads = args.threads or len(os.sched_getaffinity(0))
        engine = Engine(threads, window_size(args.memory, args.host_memory))
        compiler = CpuCompiler(args.cache_dir, threads)
        compiler.warm()
    except Exception as error:
        log.debug("cannot start", exc_info=True)
        with contextlib.suppress(OSError):
            advice = "; pip install 'gpudisagg[server]'" if isinstance(error, ModuleNotFoundError) else ""
            handoff.send(control, handoff.Failed(f"{type(error).__name__}: {error}"[:2000] + advice))
        return 1
    # All that is alive now stays: a collection in a session then has little to look at.
    gc.collect()
    gc.freeze()
    # The engine is not closed: the control thread may be about to interrupt it, and the process ends anyway.
    return Worker(control, engine, compiler).serve()


if __name__ == "__main__":
    sys.exit(main())
