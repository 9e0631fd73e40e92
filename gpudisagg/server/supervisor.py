"""The worker processes: started, watched, replaced, stopped. Each place in the pool has a task that owns its
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from gpudisagg.server import handoff
from gpudisagg.server.config import ServerConfig
from gpudisagg.server.pool import Backoff, Event, Pool, PoolError, State

log = logging.getLogger("gpudisagg.supervisor")

START_ATTEMPTS = 3  # failed starts, with none that succeeded, after which the server gives up
EXIT_TIMEOUT = 5.0  # how long a worker that is done may take to exit
STARTS_AT_ONCE = max(2, os.cpu_count() or 1)


class StartError(Exception):
    """No worker can be started; the message is the last one's reason."""


def worker_command(config: ServerConfig, control: int) -> list[str]:
    """How a worker is started: its command line, given its end of the control socket."""
    return [
        *(sys.executable, "-m", "gpudisagg.server.worker"),
        *("--control", str(control)),
        *("--threads", str(config.threads)),
        *("--memory", str(config.memory)),
        *("--host-memory", str(config.host_memory)),
        *("--cache-dir", str(config.cache_dir)),
        *("--log-level", config.log_level),
    ]


class WorkerProcess:
    """A worker, seen from the daemon."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.process = process
        self.control = control
        self.session: int | None = None
        self.reason = ""  # why it did not start or was killed, where that is known
        self.done = False  # it has served, and said that it will exit
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __str__(self) -> str:
        return f"worker {self.process.pid}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """Keeps `config.workers` workers and `config.spares` more alive and knows which of them are free.

    `on_warm()` is called when a worker may be free, `on_ended(session, reason, stats)` when one is
    over, however it ended.
    """

    def __init__(
        self,
        config: ServerConfig,
        on_warm: Callable[[], None],
        on_ended: Callable[[int, str, dict[str, int]], None],
        command: Callable[[ServerConfig, int], list[str]] = worker_command,
    ) -> None:
        self._config = config
        self._on_warm = on_warm
        self._on_ended = on_ended
        self._command = command
        self._pool: Pool[WorkerProcess] = Pool()
        self._backoff = Backoff()
        self._places: list[asyncio.Task[None]] = []
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._stopping = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failed_starts = 0
        self.replaced = 0

    async def start(self) -> None:
        """Returns once one worker is warm; the others follow. StartError: none can be."""
        for _ in range(self._config.workers + self._config.spares):
            self._places.append(asyncio.create_task(self._keep()))
        await asyncio.shield(self._ready)

    def counts(self) -> dict[str, int]:
        """Workers by the name of their state."""
        return self._pool.counts()

    def pids(self) -> list[int]:
        """The processes there are, in the order of their start."""
        return [worker.process.pid for worker in self._pool.members()]

    def sessions(self) -> dict[int, int]:
        """The sessions that run, by number, and the pid of the worker of each."""
        return {w.session: w.process.pid for w in self._pool.members() if w.session is not None}

    def take(self) -> WorkerProcess | None:
        """A warm worker, busy from here on: assign() to it next. None: none is warm, or enough are busy."""
        if self._pool.counts()[State.BUSY.value] >= self._config.workers:
            return None
        return self._pool.take()

    def assign(self, worker: WorkerProcess, job: handoff.Job, client: socket.socket) -> bool:
        """Hands the client over; this process's copy of its socket stays the caller's. False: the worker is
        gone, take another.
        """
        try:
            handoff.send(worker.control, job, client.fileno())
        except OSError as error:
            self._retire(worker, f"does not take its session: {error}")
            return False
        worker.session = job.session
        return True

    async def stop(self, grace: float) -> None:
        """Ends all sessions and workers: BYE within `grace` seconds, then SIGKILL. Every process is reaped
        on return.
        """
        self._stopping.set()
        for worker in self._pool.members():
            if self._pool.state(worker) is State.STARTING:
                worker.kill()  # it has nothing to lose, and listens to nobody yet
                continue
            try:
                handoff.send(worker.control, handoff.Stop())
            except OSError:
                worker.kill()
        if self._places:
            await asyncio.wait(self._places, timeout=grace)
            for worker in self._pool.members():
                log.warning("%s did not end within %g s, it is killed", worker, grace)
                worker.kill()
            await asyncio.gather(*self._places, return_exceptions=True)

    async def _keep(self) -> None:
        """One place in the pool: a worker, and after it the next."""
        while not self._stopping.is_set():
            try:
                delay = await self._one()
            except OSError as error:
                delay = self._failed(f"no process can be started: {error}", starting=True)
            except Exception as error:  # ours; the place must not be lost with it
                log.exception("the watch over a worker failed")
                delay = self._failed(f"internal error: {error}", starting=True)
            if delay > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)

    async def _one(self) -> float:
        """One worker, from its start until it is reaped. The seconds to wait before the next."""
        async with self._starting:
            if self._stopping.is_set():
                return 0.0
            worker = await self._spawn()
            exited = asyncio.ensure_future(worker.process.wait())
            either: list[asyncio.Future[Any]] = [exited, worker.ready]
            timeout = self._config.start_timeout
            settled, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not settled:
                self._retire(worker, f"was not ready within {timeout:g} s")
        code = await exited
        while self._hear(worker):  # its last words are still in the socket
            pass
        self._deafen(worker)
        worker.control.close()
        return self._gone(worker, code)

    async def _spawn(self) -> WorkerProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command(self._config, theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=2,  # the daemon's own stdout is for its ready line
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # sessions outlive the daemon and its terminal
                )
            except BaseException:
                ours.close()
                raise
        worker = WorkerProcess(process, ours)
        self._pool.add(worker)
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)
        if self._stopping.is_set():
            worker.kill()
        return worker

    def _hear(self, worker: WorkerProcess) -> bool:
        """Acts on one message from the worker; False when there is none (any more)."""
        try:
            received = handoff.receive(worker.control)
            if received is not None:
                message, fd = received
                if fd is not None:
                    socket.close(fd)
                self._act(worker, message)
                return True
        except BlockingIOError:
            return False
        except (handoff.HandoffError, PoolError, ValueError) as error:
            self._retire(worker, f"said something that it cannot: {error}")
            self._deafen(worker)
            return False
        except OSError as error:
            log.debug("%s: its control socket failed: %s", worker, error)
        # Closed: it is on its way out. One that is not, after a while, is hung.
        self._deafen(worker)
        if self._pool.state(worker) is not State.DEAD:
            self._pool.apply(worker, Event.RETIRED)
            asyncio.get_running_loop().call_later(EXIT_TIMEOUT, worker.kill)
        return False

    def _deafen(self, worker: WorkerProcess) -> None:
        asyncio.get_running_loop().remove_reader(worker.control)

    def _act(self, worker: WorkerProcess, message: handoff.Message) -> None:
        if isinstance(message, handoff.Ready):
            self._pool.apply(worker, Event.READY)
            log.info("%s is warm: %s", worker, message.device)
            worker.ready.set_result(None)
            if not self._ready.done():
                self._ready.set_result(None)
            self._on_warm()
        elif isinstance(message, handoff.Failed):
            worker.reason = message.reason
        elif isinstance(message, handoff.Ended):
            if worker.session is None or message.session != worker.session:
                raise ValueError(f"it ended session {message.session}, it has {worker.session}")
            self._backoff.succeeded()
            if message.reusable:
                self._pool.apply(worker, Event.ENDED)
            else:
                self._pool.apply(worker, Event.RETIRED)
                worker.done = True
                asyncio.get_running_loop().call_later(EXIT_TIMEOUT, worker.kill)
            self._end_session(worker, message.reason, message.stats)
            self._on_warm()
        else:
            raise ValueError(f"a worker sends no {type(message).__name__}")

    def _end_session(self, worker: WorkerProcess, reason: str, stats: dict[str, int]) -> None:
        session, worker.session = worker.session, None
        if session is not None:
            self._on_ended(session, reason, stats)

    def _retire(self, worker: WorkerProcess, reason: str) -> None:
        """Ends a worker that misbehaves. Its session, if any, ends with it."""
        if self._pool.state(worker) is not State.DEAD:
            self._pool.apply(worker, Event.RETIRED)
            log.error("%s %s; it is killed", worker, reason)
            worker.reason = worker.reason or reason
            worker.kill()

    def _gone(self, worker: WorkerProcess, code: int) -> float:
        """The worker's process is reaped. The seconds to wait before the next is started."""
        started = worker.ready.done()
        had_session = worker.session is not None
        self._pool.apply(worker, Event.EXITED)
        how = describe_exit(code)
        if had_session:
            log.warning("%s died in session %s: %s", worker, worker.session, how)
            self._end_session(worker, f"its worker died: {how}", {})
            self._on_warm()  # a spare may take its place
        if self._stopping.is_set():
            return 0.0
        self.replaced += 1
        if had_session or worker.done:
            log.info("%s is replaced (%s)", worker, how)
            return 0.0
        return self._failed(f"{worker}: {worker.reason or how}", starting=not started)

    def _failed(self, reason: str, *, starting: bool) -> float:
        """A worker died without a session. The seconds to wait before the next is started."""
        delay = self._backoff.failed()
        log.error("%s; the next is started %s", reason, f"in {delay:.1f} s" if delay else "now")
        if starting and not self._ready.done():
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                self._ready.set_exception(StartError(f"no worker can be started: {reason}"))
        return delay


def describe_exit(code: int) -> str:
    """A worker's exit status in words."""
    if code == handoff.EXIT_ORPHAN:
        return "it ended itself, since its client was gone while a kernel ran"
    if code == handoff.EXIT_RETIRED:
        return "its last session left it in doubt"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit status {code}"
