"""The session's way to its worker: commands, waits, bytes, and what has become of it.

Everything that goes over the wire goes through here, so that each error of the transport becomes the right
one of ours once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from gpudisagg import failures
from gpudisagg.errors import DeadlineExceeded, ForkedSession, GpuDisaggError, ProtocolError, SessionClosed
from gpudisagg.inbox import Inbox, Reply
from transport import errors as transport_errors
from transport import wire
from transport.stage import BULK_INLINE, STAGE_CHUNK_SIZE, STAGE_CHUNKS, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpudisagg.regions import Budget
    from transport.connection import Connection
    from transport.region import MemoryRegion

TransportError = transport_errors.TransportError

_SMALL = 64 << 10
# Chunks and their size, for small transfers and for large ones.
_STAGES = {False: (4, 16 << 10), True: (STAGE_CHUNKS, STAGE_CHUNK_SIZE)}
# Connections of open sessions. The garbage collector may finalize what it finds together in any order: held
# here, a connection cannot be freed before those who use it in their finalizers.
_held: set[Connection] = set()
_CLOSE_TIMEOUT = 1.0  # for CLOSE to find room in the ring: the worker learns of the hang-up anyway


class Channel:
    """One session's connection. Any thread may use it.

    timeout: seconds that a wait lasts at most where it is given no timeout of its own.
    """

    def __init__(self, connection: Connection, address: str, budget: Budget, timeout: float) -> None:
        _held.add(connection)
        self._connection = connection
        self._address = address
        self._budget = budget
        self.timeout = timeout
        self.inbox = Inbox(connection.receive)
        self.raw_post: Callable[[int, int, bytes], int] = connection.post
        self._wait = connection.wait
        self._stages: dict[bool, Stage] = {}
        # Guards what memory the session has: regions here, blocks and the window in the pool. Finalizers
        # never wait for it: they may run inside of whatever holds it.
        self.memory_lock = threading.Lock()
        self._closing = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._lost: str | None = None
        self._reported = False
        self.kernels: dict[int, tuple[str, ...]] = {}  # of each module, by index: to name what failed

    # ------------------------------------------------------------ commands and waits

    def post(self, op: int, stream: int, body: bytes) -> int:
        """Posts a command; its sequence number."""
        try:
            return self.raw_post(op, stream, body)
        except TransportError as error:
            self.fail(error, f"posting {wire.op_name(op)}")

    def wait(self, sequence: int, timeout: float | None = None) -> None:
        """Until command `sequence` and all before it are complete."""
        try:
            self._wait(sequence, self.timeout if timeout is None else timeout)
            if self.kernels:
                self._take_output()
        except TransportError as error:
            self.fail(error, f"waiting for command {sequence}", timeout)

    def synchronize(self, timeout: float | None = None) -> None:
        """Until everything posted so far is complete."""
        try:
            self._wait(self._connection.posted, self.timeout if timeout is None else timeout)
            if self.kernels:
                self._take_output()
        except TransportError as error:
            self.fail(error, "synchronize", timeout)

    def _take_output(self) -> None:
        """What kernels printed goes to stdout. SYNCHRONIZE asks for what the worker still holds back."""
        while self.inbox.print_arrived(self._connection.poll):
            self._wait(self.raw_post(wire.OP_SYNCHRONIZE, 0, b""), self.timeout)

    def ask(
        self, answer: int, number: int, op: int, stream: int, body: bytes, timeout: float | None
    ) -> list[Any]:
        """Posts a command that is answered and waits for the answer (`answer`: its op; `number`: what it is
        about).
        """
        seconds = self.timeout if timeout is None else timeout
        reply = self.inbox.expect(answer, number)
        try:
            self.raw_post(op, stream, body)
        except BaseException as error:
            self.inbox.withdraw(answer, number, reply)
            if isinstance(error, TransportError):
                self.fail(error, wire.op_name(op))
            raise
        self._collect(reply, seconds, wire.op_name(op))
        return reply.parts

    def _collect(self, reply: Reply, timeout: float, doing: str) -> None:
        try:
            whole = self.inbox.collect(reply, timeout)
        except TransportError as error:
            self.fail(error, doing, timeout)
        if not whole:
            self._raise_end()

    # ------------------------------------------------------------ bytes

    def put(self, address: int, source: NDArray[Any], stream: int) -> None:
        """`source` (contiguous) to device memory. It may be changed on return."""
        if source.nbytes <= BULK_INLINE:
            self.post(wire.OP_WRITE, stream, wire.Write(address, source.tobytes()).pack())
            return
        try:
            stage = self._stage(source.nbytes)
            stage.put(address, source, stream, self.timeout)
        except TransportError as error:
            self.fail(error, f"an upload of {source.nbytes} bytes")

    def get(self, destination: NDArray[Any], address: int, stream: int) -> None:
        """Device memory to `destination` (contiguous); the bytes are there on return."""
        try:
            stage = self._stage(destination.nbytes)
            stage.get(destination, address, stream, self.timeout)
            if self.kernels:
                self._take_output()
        except TransportError as error:
            self.fail(error, f"a download of {destination.nbytes} bytes")

    def copy_in(self, address: int, offset: int, size: int, region: int, stream: int) -> int:
        """The worker copies from a region of ours to device memory."""
        return self.post(wire.OP_COPY_IN, stream, wire.CopyHost(address, offset, size, region).pack())

    def copy_out(self, offset: int, address: int, size: int, region: int, stream: int) -> int:
        """The worker copies from device memory to a region of ours."""
        return self.post(wire.OP_COPY_OUT, stream, wire.CopyHost(address, offset, size, region).pack())

    def create_region(self, size: int, address: int) -> MemoryRegion:
        """Memory that the worker reaches, and kernels at `address` of the window (0: they don't)."""
        try:
            return self._connection.create_region(size, address=address)
        except TransportError as error:
            self.fail(error, f"sharing {size} bytes")

    def _stage(self, nbytes: int) -> Stage:
        large = nbytes > _SMALL
        stage = self._stages.get(large)
        if stage is None:
            with self.memory_lock:
                stage = self._stages.get(large)
                if stage is None:
                    stage = self._stages[large] = self._new_stage(large)
        return stage

    def _new_stage(self, large: bool) -> Stage:
        chunks, chunk_size = _STAGES[large]
        room = self._budget.limit - self._budget.used
        while chunks * chunk_size > room and chunk_size > 4096:
            chunk_size //= 2  # slower, but it works within what was granted
        charged = self._budget.take(chunks * chunk_size)
        try:
            return Stage(self._connection, None, chunks, chunk_size)
        except BaseException:
            self._budget.give_back(charged)
            raise

    # ------------------------------------------------------------ what has become of it

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def usable(self) -> bool:
        """Whether posting still makes sense: neither closed, lost, nor forked."""
        return not self._closed and self._lost is None and self._pid == os.getpid()

    @property
    def reported(self) -> bool:
        """Whether a command failed and somebody has been told."""
        return self._reported

    def completed(self) -> int:
        """The sequence number up to which all commands are complete."""
        try:
            return self._connection.completed
        except TransportError as error:
            self.fail(error, "asking what is complete")

    def direct(self) -> str:
        """By which way bulk reaches the device, as far as the server has said so."""
        if self.usable and self.inbox.direct is None:
            self._take_last_words()
        return self.inbox.direct.text if self.inbox.direct is not None else ""

    def stats(self) -> dict[str, int]:
        """The connection's counts."""
        try:
            return self._connection.stats()
        except TransportError as error:
            self.fail(error, "stats")

    def check(self) -> None:
        """Raises what makes the session unusable, if anything known does."""
        if self._pid != os.getpid():
            raise ForkedSession(
                "this session is the parent process's, where it goes on; connect() gives this one its own"
            )
        if self._closed:
            raise SessionClosed("the session is closed; open another with connect()")
        if self.inbox.fault is not None or self.inbox.bye is not None:
            self._raise_end()
        if self._lost is not None:
            raise failures.lost(self._address, None)

    def fail(self, error: TransportError, doing: str, timeout: float | None = None) -> NoReturn:
        """Raises what `error` means for the user; `timeout`: the one that was given, if any."""
        if self._pid != os.getpid() or self._closed:
            self.check()
        if isinstance(error, transport_errors.DeadlineExceeded):
            seconds = self.timeout if timeout is None else timeout
            raise DeadlineExceeded(
                f"{doing}: not done within {seconds:g} s; wait again, give more with timeout=, or close()"
            ) from error
        if isinstance(error, transport_errors.SessionFaulted):
            self._raise_fault(error)
        if isinstance(error, transport_errors.PeerGone | transport_errors.Closed):
            self._take_last_words()
            self._lost = str(error)
            reason = self._why_lost()
            if self.inbox.fault is not None or self.inbox.bye is not None:
                self._raise_end(error)
            raise failures.lost(self._address, None, reason) from error
        if isinstance(error, transport_errors.ProtocolError):
            raise ProtocolError(f"{doing}: {error}") from error
        raise GpuDisaggError(f"{doing}: {error}") from error

    def _raise_fault(self, cause: TransportError) -> NoReturn:
        try:
            self.inbox.collect(None, self.timeout)
        except transport_errors.SessionFaulted:
            raise ProtocolError("a command failed and the server doesn't say which") from cause
        except TransportError as error:
            self.fail(error, "learning which command failed")
        self._raise_end(cause)

    def _raise_end(self, cause: BaseException | None = None) -> NoReturn:
        fault = self.inbox.fault
        if fault is not None:
            self._reported = True
            raise failures.fault(fault, self._kernel_name) from cause
        self._lost = "BYE"
        raise failures.lost(self._address, self.inbox.bye) from cause

    def _take_last_words(self) -> None:
        with contextlib.suppress(TransportError):  # nothing more is there
            self.inbox.drain()

    def _why_lost(self) -> str:
        try:
            return self._connection.reason
        except TransportError:  # closed by now
            return ""

    def _kernel_name(self, module: int, kernel: int) -> str | None:
        names = self.kernels.get(module, ())
        return names[kernel] if kernel < len(names) else None

    # ------------------------------------------------------------ its end

    def close(self) -> None:
        """Says CLOSE and hangs up; waits in other threads end with SessionClosed. Twice is fine."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._pid != os.getpid():
            return
        self._connection.timeout = min(self._connection.timeout, _CLOSE_TIMEOUT)
        try:
            if self._lost is None:
                self._connection.post(wire.OP_CLOSE, 0, b"")
        except TransportError:
            pass  # then it is gone, which is what closing is for
        finally:
            for stage in list(self._stages.values()):
                stage.close()
            self._connection.close()
            _held.discard(self._connection)

    def forked(self) -> None:
        """In the child, after fork: locks that other threads held are nobody's now."""
        self.memory_lock = threading.Lock()
        self._closing = threading.Lock()
        self.inbox = Inbox(self._connection.receive)
