"""The daemon: lets clients in, queues them, hands each one's socket to a warm worker, and is then out of its
way.

It runs on one asyncio loop and never blocks: a slow or hostile client costs a bounded place in `_pending`,
nobody's time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import itertools
import json
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpudisagg.server import admission
from gpudisagg.server.config import ServerConfig
from gpudisagg.server.handoff import Job
from gpudisagg.server.listeners import Listener, Listeners
from gpudisagg.server.supervisor import Supervisor, WorkerProcess, worker_command
from gpudisagg.sizes import format_size
from transport import bootstrap, wire
from transport.address import Address
from transport.bootstrap import Peer
from transport.errors import ProtocolError, Refused, TransportError

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger("gpudisagg.daemon")

_BACKLOG = 256
_FRAME_HEAD = 16  # sizeof(gpud_frame_head): how many bytes say how long a frame is
_ACCEPT_PAUSE = 0.1  # when there are no descriptors left


class ClientGone(Exception):
    """The client hung up before it had a session."""


class Queue:
    """Clients that wait for a worker, first come first served. Each gets one answer: a worker or an
    exception.
    """

    def __init__(self) -> None:
        self._waiting: collections.deque[asyncio.Future[WorkerProcess]] = collections.deque()

    def __len__(self) -> int:
        return sum(not answer.done() for answer in self._waiting)

    def serve(self, take: Callable[[], WorkerProcess | None]) -> None:
        """Gives workers to clients while there are both."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            worker = take()
            if worker is None:
                return
            self._waiting.popleft().set_result(worker)

    def end(self, error: Exception) -> None:
        """Answers everyone with `error`."""
        while self._waiting:
            _answer(self._waiting.popleft(), error)

    async def wait(self, client: socket.socket, timeout: float) -> WorkerProcess:
        """A worker for `client`. Refused: none within `timeout` seconds. ClientGone, ProtocolError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[WorkerProcess] = loop.create_future()
        late = admission.busy(f"no worker became free within {timeout:.3g} s")
        timer = loop.call_later(timeout, _answer, answer, late)
        loop.add_reader(client, _look, client, answer)
        self._waiting.append(answer)
        try:
            return await answer
        finally:
            timer.cancel()
            loop.remove_reader(client)


def _answer(answer: asyncio.Future[WorkerProcess], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _look(client: socket.socket, answer: asyncio.Future[WorkerProcess]) -> None:
    """A queued client's socket is readable: it hung up, or speaks out of turn."""
    try:
        data = client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    _answer(answer, ProtocolError("it spoke before it was answered") if data else ClientGone())


class Daemon:
    """A server on the addresses of `config`, for use inside a running loop.

    `await start()`, then clients are served; `await close()` ends everything it started.
    """

    def __init__(
        self, config: ServerConfig, command: Callable[[ServerConfig, int], list[str]] = worker_command
    ) -> None:
        self.config = config
        self._listeners = Listeners()
        self._tls: SSLContext | None = None
        self._accepting: list[asyncio.Task[None]] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._queue = Queue()
        self._sessions = itertools.count(1)
        self._served = 0
        self._refused: collections.Counter[int] = collections.Counter()
        self._workers = Supervisor(config, self._serve_queue, self._session_ended, command)

    async def start(self) -> None:
        """Listens and starts the workers; returns once one is warm.

        OSError: an address cannot be listened on. StartError: no worker can be started.
        """
        try:
            self._tls = _tls_context(self.config)
            self._listeners.open(self.config.listen, 0o666 if self.config.allow_uid else 0o600, _BACKLOG)
            await self._workers.start()
        except BaseException:
            await self.close(grace=0)
            raise
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, with the ports that the kernel chose."""
        return list(self._listeners.addresses)

    async def close(self, grace: float | None = None) -> None:
        """Stops listening, ends the sessions with a BYE (killing those left after `grace` seconds), reaps
        every worker.
        """
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._listeners.close()
        self._accepting = []
        self._queue.end(admission.shutting_down())
        if self._pending:  # those who were queued read why; those who have not spoken yet are hung up on
            await asyncio.wait(self._pending, timeout=0.1)
            for pending in self._pending:
                pending.cancel()
            await asyncio.gather(*self._pending, return_exceptions=True)
        await self._workers.stop(self.config.grace if grace is None else grace)

    def status(self) -> dict[str, Any]:
        """Numbers, for logs and tests: workers by state, their pids, sessions (number to pid), clients
        waiting, refusals.
        """
        return {
            "workers": self._workers.counts(),
            "pids": self._workers.pids(),
            "replaced": self._workers.replaced,
            "sessions": self._workers.sessions(),
            "served": self._served,
            "pending": len(self._pending),
            "queued": len(self._queue),
            "refused": {wire.status_name(status): count for status, count in sorted(self._refused.items())},
        }

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener.socket)
            except OSError as error:
                log.error("cannot accept: %s; trying again", error)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._pending) >= 2 * self.config.max_pending:
                # Not even the courtesy of a reason: that would need a place to wait in.
                bootstrap.hang_up(client)
                self._refused[wire.STATUS_BUSY] += 1
                continue
            pending = asyncio.create_task(self._let_in(client, listener))
            self._pending.add(pending)
            pending.add_done_callback(self._pending.discard)

    async def _let_in(self, client: socket.socket, listener: Listener) -> None:
        """From accept to handover, or to a refusal. Owns the client's socket; the worker gets a copy."""
        if self._tls is not None and not listener.is_unix:
            try:
                client = await asyncio.wait_for(_secure(client, self._tls), self.config.hello_timeout)
            except asyncio.TimeoutError:
                log.debug("a client made no TLS handshake in time")
                return
            except (TransportError, OSError) as error:
                log.warning("a client did not get in: %s", error)
                return
        with client:
            try:
                await self._hand_over(client, listener)
                return
            except Refused as refusal:
                self._refuse(client, refusal)
            except ProtocolError as error:
                reason = f"the server did not understand the client's first words: {error}"
                self._refuse(client, Refused(wire.STATUS_PROTOCOL, reason))
            except (ClientGone, OSError) as error:
                log.debug("a client hung up before it had a session %s", error)
            bootstrap.hang_up(client)

    async def _hand_over(self, client: socket.socket, listener: Listener) -> None:
        peer, whose = await self._whose(client, listener)
        frame = await self._read_hello(client, peer)
        hello = wire.decode_hello(frame)
        bootstrap.check_transport(hello, listener.schemes)
        grant = admission.admit(hello, self.config)
        if len(self._pending) > self.config.max_pending:
            raise admission.busy(f"{len(self._pending)} clients are waiting already")
        end = asyncio.get_running_loop().time() + grant.wait
        session = next(self._sessions)
        job = Job(session, grant.memory, grant.host_memory, frame.hex())
        while True:
            worker = await self._worker(client, end)
            if self._workers.assign(worker, job, client):
                break
        log.info(
            "session %d: %r of %s, on %s, up to %s of memory",
            *(session, hello.name[:64], whose, worker, format_size(grant.memory)),
        )

    async def _whose(self, client: socket.socket, listener: Listener) -> tuple[Peer | None, str]:
        """Who connected, and in words; None where anybody may."""
        if listener.is_unix:
            peer = bootstrap.peer_of(client)
            return peer, str(peer)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = client.getpeername()[:2]
        if self.config.allow_network:
            return None, f"somebody at {host} port {port}"
        # The kernel's table of connections may be long: not on this thread.
        peer = await asyncio.to_thread(bootstrap.peer_of, client)
        return peer, f"{peer} at port {port}"

    async def _read_hello(self, client: socket.socket, peer: Peer | None) -> bytes:
        timeout = self.config.hello_timeout
        try:
            return await asyncio.wait_for(self._first_words(client, peer), timeout)
        except asyncio.TimeoutError:
            raise Refused(
                wire.STATUS_DEADLINE,
                f"the client sent no whole HELLO within {timeout:g} s",
                admission.RETRY_MS,
            ) from None

    async def _first_words(self, client: socket.socket, peer: Peer | None) -> bytes:
        """The frame that is not ASK; each ASK before it is answered."""
        for _ in range(bootstrap.MAX_ASKS):
            frame = await _read_frame(client)
            # Judged once it was read: a client told earlier would find the socket closed before it reads why.
            if peer is not None:
                admission.check_user(peer.uid, self.config)
            if wire.frame_type(frame) != wire.FRAME_ASK:
                return frame
            wire.decode_ask(frame)
            answer = wire.encode_ways(self._listeners.ways(client))
            if client.send(answer) != len(answer):
                raise ClientGone  # it asks and asks, and reads no answer
        raise ProtocolError(f"it asked {bootstrap.MAX_ASKS} times and said no HELLO")

    async def _worker(self, client: socket.socket, end: float) -> WorkerProcess:
        if not len(self._queue) and (worker := self._workers.take()) is not None:
            return worker
        remaining = end - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise admission.busy("every worker is busy")
        return await self._queue.wait(client, remaining)

    def _serve_queue(self) -> None:
        self._queue.serve(self._workers.take)

    def _refuse(self, client: socket.socket, refusal: Refused) -> None:
        self._refused[refusal.status] += 1
        log.warning("refused %s: %s", wire.status_name(refusal.status), refusal.reason)
        frame = wire.encode_refused(wire.RefusedFrame(refusal.status, refusal.retry_ms, refusal.reason))
        with contextlib.suppress(OSError):  # one that reads nothing need not learn why
            client.send(frame)

    def _session_ended(self, session: int, reason: str, stats: dict[str, int]) -> None:
        self._served += 1
        numbers = ", ".join(f"{name} {value}" for name, value in stats.items() if name != "session")
        log.info("session %d: over (%s)%s", session, reason, f"; {numbers}" if numbers else "")


async def _read_frame(client: socket.socket) -> bytes:
    """One frame and not a byte more. ProtocolError: no frame begins so. ClientGone."""
    frame = b""
    wanted = _FRAME_HEAD
    while len(frame) < wanted:
        try:
            some = bootstrap.receive_bytes(client, wanted - len(frame))
        except BlockingIOError:
            await _readable(client)
            continue
        if not some:
            raise ClientGone
        frame += some
        if len(frame) >= _FRAME_HEAD:
            wanted = wire.frame_size(frame)
    return frame


async def _readable(client: socket.socket | int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(client, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(client)


async def _writable(client: socket.socket | int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(client, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(client)


def _tls_context(config: ServerConfig) -> SSLContext | None:
    """OSError: TLS is asked for and cannot be had."""
    if config.tls_cert is None:
        return None
    from transport import tls

    if why := tls.available():
        raise OSError(errno.ENOTSUP, f"--tls-cert: {why}")
    return tls.server_context(config.tls_cert, config.tls_key, config.tls_ca)


async def _secure(client: socket.socket, context: SSLContext) -> socket.socket:
    """The TLS handshake; closes the client's socket where it fails, or is cancelled."""
    from transport import tls

    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        handshake = tls.Handshake(client, context, None)
        stack.callback(handshake.close)
        while wanted := handshake.step():
            fd = handshake.fileno()
            await (_readable(fd) if wanted == select.POLLIN else _writable(fd))
        secured = handshake.finish()
        stack.pop_all()
    return secured


async def serve(config: ServerConfig, until_closed: int | None = None) -> None:
    """Runs a daemon until SIGTERM, SIGINT, or the end of the pipe or socket `until_closed`.

    Prints one line per address to stdout when it is ready. SIGUSR1: its status as a line of JSON to stderr.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    daemon = Daemon(config)

    def told(why: str) -> None:
        log.info("%s: shutting down", why)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number.name)
    loop.add_signal_handler(
        signal.SIGUSR1, lambda: print(json.dumps(daemon.status()), file=sys.stderr, flush=True)
    )
    if until_closed is not None:
        _until_closed(until_closed, lambda: told(f"descriptor {until_closed} is closed"))
    stopped = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(daemon.start())
    await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    await starting
    try:
        for place in daemon.addresses:
            print(f"gpudisagg: listening on {place}", flush=True)
        await stopped
    finally:
        await daemon.close()


def _until_closed(fd: int, closed: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)

    def readable() -> None:
        try:
            if os.read(fd, 4096):
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.error("descriptor %d cannot be read: %s", fd, error)
        loop.remove_reader(fd)
        closed()

    loop.add_reader(fd, readable)
