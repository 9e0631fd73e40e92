"""A session: a function's hold on a device that is elsewhere."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpudisagg import geometry
from gpudisagg.array import DeviceArray, shape_like
from gpudisagg.capabilities import Capabilities, MemoryInfo, capabilities_of
from gpudisagg.channel import Channel
from gpudisagg.errors import CompileError, DeadlineExceeded
from gpudisagg.hostarray import HostArray, host_array
from gpudisagg.module import Module
from gpudisagg.pool import Command, Pool
from gpudisagg.regions import Budget
from gpudisagg.sizes import format_size
from gpudisagg.stream import Event, Stream
from transport import wire

if TYPE_CHECKING:
    from transport.connection import Connection

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class _Current(threading.local):
    number = 0  # each thread begins on the default stream


class Session:
    """Memory, code and time on a disaggregated device. Made by `gpudisagg.connect`; a context manager:
    leaving it closes.

    Commands are posted, not waited for. What fails on the device is raised by the next call that waits
    (`synchronize`, `DeviceArray.get`, `Event.synchronize`, `compile`) and by every one after it. Any thread
    may use a session. In a forked child its calls raise ForkedSession and the parent's session goes on.

    timeout: seconds that a wait lasts at most where it is given no timeout of its own.
    address: where it is connected to. device: the device's name.
    """

    def __init__(self, connection: Connection, address: str, timeout: float) -> None:
        welcome = connection.welcome
        assert welcome is not None
        self.welcome: wire.Welcome = welcome
        self.address = address
        self.device = welcome.name
        budget = Budget(welcome.host_memory)
        self.channel = Channel(connection, address, budget, timeout)
        self.pool = Pool(self.channel, welcome, budget)
        self.current = _Current()
        self._numbers = itertools.count(1)  # of modules, streams and events: ours to choose, never used twice
        self._budget = budget
        self._transport = connection.transport
        self._ways = connection.ways
        _sessions.add(self)

    # ------------------------------------------------------------ arrays

    def asarray(
        self, array: ArrayLike | DeviceArray, dtype: Any = None, stream: Stream | None = None
    ) -> DeviceArray:
        """A C-contiguous copy of a numpy array (or what numpy makes one of) on the device; a DeviceArray
        comes back as it is.

        TypeError: a dtype whose elements are not plain bytes; OutOfMemory.
        """
        if isinstance(array, DeviceArray):
            if array.session is not self:
                raise ValueError("the array belongs to another session; copy through the host: .get()")
            if dtype is not None and np.dtype(dtype) != array.dtype:
                raise TypeError(
                    f"asarray() does not convert on the device: {array.dtype} to {np.dtype(dtype)}"
                )
            return array
        source = array if isinstance(array, np.ndarray) and dtype is None else np.asarray(array, dtype)
        result = self.empty(source.shape, source.dtype, stream)
        result.set(source, stream)
        return result

    def empty(
        self, shape: int | Sequence[int], dtype: Any = float, stream: Stream | None = None
    ) -> DeviceArray:
        """An array of whatever is there. Mostly no message at all. OutOfMemory, TypeError (dtype), ValueError
        (shape).
        """
        return self._empty(geometry.shape_of(shape), geometry.plain_dtype(dtype), stream)[0]

    def zeros(
        self, shape: int | Sequence[int], dtype: Any = float, stream: Stream | None = None
    ) -> DeviceArray:
        """An array of zero bytes. Errors as `empty`."""
        array, zeroed = self._empty(geometry.shape_of(shape), geometry.plain_dtype(dtype), stream)
        if not zeroed:
            array.view(np.dtype((np.void, array.itemsize))).fill(bytes(array.itemsize), stream)
        return array

    def full(
        self, shape: int | Sequence[int], fill_value: Any, dtype: Any = None, stream: Stream | None = None
    ) -> DeviceArray:
        """An array of `fill_value`; `dtype` is the value's by default. Errors as `empty`."""
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, stream)
        array.fill(fill_value, stream)
        return array

    def empty_like(self, array: NDArray[Any] | DeviceArray, dtype: Any = None) -> DeviceArray:
        """As `empty`, of the shape and dtype of a numpy or device array."""
        shape, own = shape_like(array)
        return self.empty(shape, own if dtype is None else dtype)

    def zeros_like(self, array: NDArray[Any] | DeviceArray, dtype: Any = None) -> DeviceArray:
        """As `zeros`, of the shape and dtype of a numpy or device array."""
        shape, own = shape_like(array)
        return self.zeros(shape, own if dtype is None else dtype)

    def full_like(self, array: NDArray[Any] | DeviceArray, fill_value: Any, dtype: Any = None) -> DeviceArray:
        """As `full`, of the shape and dtype of a numpy or device array."""
        shape, own = shape_like(array)
        return self.full(shape, fill_value, own if dtype is None else dtype)

    def _empty(
        self, shape: geometry.Shape, dtype: np.dtype[Any], stream: Stream | None
    ) -> tuple[DeviceArray, bool]:
        nbytes = math.prod(shape) * dtype.itemsize
        memory = self.pool.allocate(nbytes, self.stream_number(stream)) if nbytes else None
        layout = geometry.contiguous(memory.block.address if memory else 0, shape, dtype.itemsize)
        return DeviceArray(self, layout, dtype, memory), memory is None or memory.zeroed

    # ------------------------------------------------------------ host arrays

    def host_empty(self, shape: int | Sequence[int], dtype: Any = float) -> HostArray:
        """A numpy array that the worker and (where `capabilities.host_map`) its kernels reach in place, of
        whatever is there. Memory of arrays that are gone is used again, with its pages faulted in.

        OutOfMemory: over the session's host memory. TypeError (dtype), ValueError (shape).
        """
        lengths, element = geometry.shape_of(shape), geometry.plain_dtype(dtype)
        return self._host_empty(lengths, element)[0]

    def host_zeros(self, shape: int | Sequence[int], dtype: Any = float) -> HostArray:
        """As `host_empty`, of zeros."""
        array, zeroed = self._host_empty(geometry.shape_of(shape), geometry.plain_dtype(dtype))
        if not zeroed:
            array.view(np.ndarray).reshape(-1).view(np.uint8)[...] = 0
        return array

    def _host_empty(self, shape: geometry.Shape, dtype: np.dtype[Any]) -> tuple[HostArray, bool]:
        self.channel.check()
        size = geometry.contiguous(0, shape, dtype.itemsize).nbytes
        pages, zeroed = self.pool.pages(self, size, in_window=True)
        return host_array(pages, shape, dtype), zeroed

    def host_array(self, array: ArrayLike, dtype: Any = None) -> HostArray:
        """A copy of a numpy array (or what numpy makes one of) in such memory. Errors as `host_empty`."""
        source = np.asarray(array, dtype)
        result = self.host_empty(source.shape, source.dtype)
        result[...] = source
        return result

    # ------------------------------------------------------------ code

    def compile(
        self, source: str | bytes, options: Sequence[str] = (), *, timeout: float | None = None
    ) -> Module:
        """Loads device code: CUDA C++ or PTX as text, or an image (cubin, fatbin, PTX) as bytes.

        options: the compiler's own, such as "-std=c++17", "-DN=16". timeout: seconds, the session's by
        default. The server compiles it and keeps the result, so the same code loads faster the next time.
        Errors: CompileError with the compiler's `log`; DeadlineExceeded; whatever failed before on the
        session.
        """
        if not isinstance(source, str | bytes | bytearray | memoryview):
            raise TypeError(f"device code is text or bytes, not {type(source).__name__}; read the file first")
        image = source.encode() if isinstance(source, str) else bytes(source)
        if not image:
            raise CompileError("the source is empty")
        if len(image) > wire.MAX_IMAGE:
            raise CompileError(
                f"the image has {format_size(len(image))}; a module may have {format_size(wire.MAX_IMAGE)}"
            )
        flags = tuple(options)
        if isinstance(options, str) or any(not flag or "\0" in flag for flag in flags):
            raise TypeError("options is a sequence of texts, each an option of its own")
        if sum(len(flag.encode()) + 1 for flag in flags) > wire.MAX_OPTIONS:
            raise CompileError(
                f"the options are longer than {wire.MAX_OPTIONS} bytes together; put them in the source"
            )
        self.channel.check()
        number = next(self._numbers)
        pages, _ = self.pool.pages(self, len(image), in_window=False)
        np.asarray(pages)[: len(image)] = np.frombuffer(image, np.uint8)
        body = wire.ModuleLoad(number, pages.number, 0, len(image), flags).pack()
        try:
            parts = self.channel.ask(wire.OP_MODULE_STATUS, number, wire.OP_MODULE_LOAD, 0, body, timeout)
        except (DeadlineExceeded, KeyboardInterrupt):
            # It may still be loaded, and nobody would be there to unload it.
            self.pool.bury(Command(wire.OP_MODULE_UNLOAD, 0, wire.ModuleRef(number).pack()))
            raise
        return Module(self, number, parts)

    # ------------------------------------------------------------ order and time

    def stream(self) -> Stream:
        """A new stream."""
        return Stream(self, next(self._numbers))

    @property
    def default_stream(self) -> Stream:
        """The stream that is used where none is named."""
        return Stream(self, 0)

    def event(self) -> Event:
        """A new event, not yet recorded."""
        return Event(self, next(self._numbers))

    def stream_number(self, stream: Stream | None) -> int:
        """The wire's number of `stream`, of this thread's current one where None. ValueError: another
        session's.
        """
        if stream is None:
            return self.current.number
        if not isinstance(stream, Stream):
            raise TypeError(f"expected a Stream, got {type(stream).__name__}")
        if stream.session is not self:
            raise ValueError("the stream belongs to another session")
        return stream.number

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything posted so far, on any stream, is done.

        timeout: seconds, the session's by default. Raises whatever failed (CommandError, DeviceFault,
        OutOfMemory, SessionLost, ...); DeadlineExceeded.
        """
        self.channel.synchronize(timeout)

    # ------------------------------------------------------------ what it has

    @property
    def timeout(self) -> float:
        return self.channel.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"a timeout is a positive number of seconds, not {seconds!r}")
        self.channel.timeout = self.channel.connection.timeout = seconds

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self.welcome, self._transport, self._ways, self.channel.direct())

    @property
    def memory_info(self) -> MemoryInfo:
        """Bytes of device memory: (free, total, used, mapped, largest_free)."""
        usage = self.pool.usage()
        return MemoryInfo(usage.limit - usage.used, usage.limit, usage.used, usage.mapped, usage.largest_free)

    def free_all_blocks(self) -> int:
        """Gives back what is kept for reuse: device memory (how many bytes) and unused host memory."""
        return self.pool.trim()

    def stats(self) -> dict[str, int]:
        """Counts since connect: messages_sent, messages_received, credit_waits; bytes_copied_in and
        bytes_copied_out by the CPU of this process; and now, in bytes: device_used, device_mapped, host_used,
        and of that host_kept, for reuse.
        """
        usage = self.pool.usage()
        counts = self.channel.stats()
        counts.update(device_used=usage.used, device_mapped=usage.mapped)
        counts.update(host_kept=self.pool.host_kept(), host_used=self._budget.used)
        return counts

    # ------------------------------------------------------------ its end

    @property
    def closed(self) -> bool:
        return self.channel.closed

    def close(self) -> None:
        """Ends the session; its device memory is gone, host arrays stay readable. Waits in other threads end
        with SessionClosed. Never raises for what failed before. Twice is fine.
        """
        self.channel.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Closes. Where the block ended well, first waits for what was posted, so that a failure is not lost:
        it is raised here.
        """
        try:
            if kind is None and self.channel.usable and not self.channel.reported:
                self.synchronize()
        finally:
            self.close()

    def __del__(self) -> None:
        channel = getattr(self, "channel", None)
        if channel is not None and channel.usable:
            warnings.warn(
                f"{self!r} was not closed; use it in a with statement", ResourceWarning, stacklevel=2
            )
            channel.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.device}, {format_size(self.welcome.memory)}"
        return f"<Session {self.welcome.session} at {self.address} over {self._transport}: {state}>"

    def _forked(self) -> None:
        self.channel.forked()
        self.pool.forked()


def close_all() -> None:
    """Closes every session of this process: at its end, while everything that closing needs still works."""
    for session in list(_sessions):
        session.close()


def _forget_sessions() -> None:
    for session in list(_sessions):
        session._forked()


atexit.register(close_all)
os.register_at_fork(after_in_child=_forget_sessions)
