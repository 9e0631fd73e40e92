"""Kernels and their launches. A launch is one message; everything that can be known before is worked out
once.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gpudisagg.errors import InvalidCommand
from gpudisagg.params import Parameter, Signature
from gpudisagg.stream import Stream
from transport import wire
from transport.errors import TransportError

if TYPE_CHECKING:
    from gpudisagg.module import Module
    from gpudisagg.session import Session

Extent = int | tuple[int, ...]
Triple = tuple[int, int, int]
_LAUNCH = wire.OP_LAUNCH
_MAX_CACHED = 256  # launch configurations kept for each kernel


class Kernel:
    """A kernel of a module. Four ways to launch it, all posted and not waited for:

        kernel[grid, block](*args)                      kernel[grid, block, stream](*args)
        kernel[grid, block, stream, shared_memory](*args)
        kernel(grid, block, args, shared_mem=0)         as CuPy's RawKernel
        kernel.launch(grid, block, args, shared_memory=0, stream=None, cooperative=False)

    grid, block: blocks in the grid, threads in a block: an int or a tuple of one to three.
    shared_memory: bytes of dynamic shared memory for each block.
    cooperative: all blocks run at the same time, so that they may wait for one another, as with
        `cooperative_groups::this_grid().sync()`. The grid may have `max_cooperative_blocks`.
    args: each is checked against the kernel's own parameter before anything is sent:
        integers of 1, 2, 4 or 8 bytes: int or bool in range (signed or unsigned), a numpy integer of that
        very size
        pointers: a DeviceArray or HostArray of this session, None (null), an int address
        floats of 2, 4 or 8 bytes: float or int, a numpy float of that very size
        aggregates: anything of as many bytes: bytes, numpy scalars (structured, complex, half) or arrays,
        ctypes structures
        anywhere: a `bytes` of the right length, as it is
    A view is passed as the pointer to its first element.

    Errors, before anything is sent: TypeError (how many, of which kind), OverflowError (range), ValueError
    (another session's array), InvalidCommand (a grid, block or shared memory that the device doesn't take).
    What fails on the device is raised by the next call that waits.

    name: as compiled. max_threads_per_block: of this kernel. shared_size_bytes: its static shared memory.
    """

    def __init__(self, module: Module, info: wire.KernelInfo) -> None:
        self.module = module
        self.session: Session = module.session
        self.name = info.name
        self.max_threads_per_block = info.max_threads
        self.shared_size_bytes = info.static_shared
        self._index = info.kernel
        self._signature = Signature(
            self.session,
            info.name,
            [Parameter(*parameter) for parameter in info.params],
            info.params_size,
            wire.LAUNCH_HEAD.size,
        )
        self._launchers: dict[Any, Launcher] = {}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Offset and size in bytes, and kind, of each parameter."""
        return self._signature.parameters

    @property
    def max_cooperative_blocks(self) -> int:
        """How many blocks a cooperative launch may have; 0 where there are none. The device takes fewer of a
        kernel with very much working memory, and says how many.
        """
        granted = self.session.welcome.features & wire.FEATURE_COOPERATIVE
        return wire.MAX_COOPERATIVE_BLOCKS if granted else 0

    def __getitem__(self, key: Any) -> Launcher:
        try:
            return self._launchers[key]
        except (KeyError, TypeError):
            pass
        if not isinstance(key, tuple) or not 2 <= len(key) <= 4:
            raise TypeError(
                f"write {self.name}[grid, block] or {self.name}[grid, block, stream, shared_memory]"
            )
        grid, block, *rest = key
        stream = rest[0] if rest else None
        launcher = self._configure(grid, block, rest[1] if len(rest) > 1 else 0, stream)
        if stream is None:  # else the cache would keep the stream from being destroyed
            if len(self._launchers) >= _MAX_CACHED:
                self._launchers.clear()
            self._launchers[key] = launcher
        return launcher

    def launch(
        self,
        grid: Extent,
        block: Extent,
        args: Sequence[Any] = (),
        *,
        shared_memory: int = 0,
        stream: Stream | None = None,
        cooperative: bool = False,
    ) -> None:
        """Launches it; see the class."""
        if stream is None and not cooperative:
            self[grid, block, None, shared_memory](*args)
        else:
            self._configure(grid, block, shared_memory, stream, cooperative=cooperative)(*args)

    def __call__(
        self,
        grid: Extent,
        block: Extent,
        args: Sequence[Any] = (),
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
        cooperative: bool = False,
    ) -> None:
        self.launch(grid, block, args, shared_memory=shared_mem, stream=stream, cooperative=cooperative)

    def _configure(
        self,
        grid: Extent,
        block: Extent,
        shared_memory: int,
        stream: Stream | None,
        *,
        cooperative: bool = False,
    ) -> Launcher:
        welcome = self.session.welcome
        blocks = self._extent("grid", grid, welcome.max_grid)
        threads = self._extent("block", block, welcome.max_block)
        count = threads[0] * threads[1] * threads[2]
        most = min(welcome.max_block_threads, self.max_threads_per_block or welcome.max_block_threads)
        if count > most:
            self._refuse(f"a block of {count} threads; it may have {most}")
        if not isinstance(shared_memory, int) or shared_memory < 0:
            self._refuse(f"shared memory of {shared_memory!r} bytes")
        if self.shared_size_bytes + shared_memory > welcome.max_shared:
            self._refuse(
                f"{self.shared_size_bytes} + {shared_memory} bytes of shared memory; "
                f"a block may have {welcome.max_shared}"
            )
        flags = 0
        if cooperative:
            self._check_cooperative(blocks[0] * blocks[1] * blocks[2])
            flags = wire.LAUNCH_COOPERATIVE
        signature = self._signature
        head = wire.LAUNCH_HEAD.pack(
            self.module.number, self._index, signature.size, *blocks, *threads, flags, shared_memory
        )
        number = None if stream is None else self.session.stream_number(stream)
        return Launcher(self, signature, head, number, stream)

    def _check_cooperative(self, blocks: int) -> None:
        most = self.max_cooperative_blocks
        if most == 0:
            self._refuse(
                "the server has no cooperative launches: update it, or launch a kernel for each phase"
            )
        if blocks > most:
            self._refuse(
                f"a cooperative launch of {blocks} blocks; at most {most} can run at the same time: "
                "use fewer, and a loop in the kernel"
            )

    def _extent(self, what: str, extent: Extent, most: Triple) -> Triple:
        lengths = extent if isinstance(extent, tuple) else (extent,)
        try:
            x, y, z = (*map(operator.index, lengths), *(1,) * (3 - len(lengths)))
        except (TypeError, ValueError):
            self._refuse(f"{what} {extent!r}; it is an int or a tuple of one to three")
        if not (0 < x <= most[0] and 0 < y <= most[1] and 0 < z <= most[2]):
            self._refuse(f"{what} {extent!r}; the device takes (1, 1, 1) to {most}")
        return x, y, z

    def _refuse(self, why: str) -> NoReturn:
        raise InvalidCommand(f"{self.name}: {why}", command="LAUNCH", kernel=self.name, reason=why)

    def __repr__(self) -> str:
        return f"<Kernel {self.name}({', '.join(map(str, self.parameters))})>"


class Launcher:
    """A kernel with its grid and block: call it with the kernel's arguments. Posted, not waited for."""

    __slots__ = (
        "_converters",
        "_count",
        "_current",
        "_head",
        "_kernel",
        "_pack",
        "_post",
        "_stream",
        "_stream_object",
    )

    def __init__(
        self, kernel: Kernel, signature: Signature, head: bytes, number: int | None, stream: Stream | None
    ) -> None:
        self._kernel = kernel
        self._converters = signature.converters
        self._count = len(signature.converters)
        self._pack: Callable[..., bytes] = signature.layout.pack
        self._head = head
        self._stream = number
        self._stream_object = stream  # keeps it from being destroyed
        self._current = kernel.session.current
        self._post = kernel.session.channel.raw_post

    def __call__(self, *args: Any) -> None:
        if len(args) != self._count:
            self._kernel._signature.check_count(len(args))
        stream = self._stream
        if stream is None:
            stream = self._current.number
        body = self._head
        if args:
            values = [convert(arg) for convert, arg in zip(self._converters, args)]  # noqa: B905
            try:
                body = self._pack(body, *values)
            except (OverflowError, struct.error):
                self._kernel._signature.refuse(values)
        try:
            self._post(_LAUNCH, stream, body)
        except TransportError as error:
            self._kernel.session.channel.fail(error, f"launching {self._kernel.name}")
