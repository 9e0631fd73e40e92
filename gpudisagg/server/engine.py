"""csrc/engine for Python: the worker's command loop, which comes back only for what needs Python."""

from __future__ import annotations

import enum
import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gpudisagg.device.code import GlobalVariable, KernelCode
from gpudisagg.server._engine import ffi, lib
from transport.errors import TransportError, check
from transport.layout import text_of
from transport.wire import FEATURE_VERBS, MAX_TEXT, decode_hello, pack_hello, text_bytes

ORPHAN_MS: int = lib.GPUD_ORPHAN_MS
EXIT_ORPHAN: int = lib.GPUD_EXIT_ORPHAN

_PARAM_KINDS: dict[str, int] = {
    "bits": lib.GPUD_PARAM_BITS,
    "float": lib.GPUD_PARAM_FLOAT,
    "blob": lib.GPUD_PARAM_BLOB,
}


def has_membarrier() -> bool:
    """Whether the kernel lets this process use membarrier(2)."""
    return bool(lib.gpud_membarrier_available())


class Run(enum.IntEnum):
    """Why `Engine.run` came back."""

    COMPILE = lib.GPUD_RUN_COMPILE
    CLOSED = lib.GPUD_RUN_CLOSED
    GONE = lib.GPUD_RUN_GONE
    PROTOCOL = lib.GPUD_RUN_PROTOCOL
    INTERRUPTED = lib.GPUD_RUN_INTERRUPTED


class Image(NamedTuple):
    """A module that waits to be compiled: the client's number for it, its bytes, its compile options."""

    module: int
    data: bytes
    options: tuple[str, ...]


class Engine:
    """A cpu device and the loop that executes one session's commands on it.

    One thread calls everything but `interrupt`. Errors are those of `transport.errors.check`.
    """

    def __init__(self, threads: int, window: int) -> None:
        """`threads`: of the device's pool, 0 for one per CPU; `window`: bytes of address space to reserve."""
        out = ffi.new("gpud_engine **")
        check(lib.gpud_engine_new(threads, window, out), "open the cpu device")
        self._engine: Any = out[0]

    def close(self) -> None:
        """Frees the device. A session must have been detached. Closing twice is harmless."""
        engine, self._engine = self._engine, ffi.NULL
        if engine != ffi.NULL:
            lib.gpud_engine_free(engine)

    def attach(
        self, socket: int, hello: bytes, session: int, memory: int, host_memory: int, timeout: float
    ) -> None:
        """Begins a session on a connected socket (owned by the engine from here on, also on failure).

        `hello`: the client's HELLO frame, already judged. ProtocolError, PeerGone, DeadlineExceeded: there
        is no session then.
        """
        body = ffi.new("gpud_hello *")
        ffi.buffer(body)[:] = pack_hello(decode_hello(hello))
        deadline = time.monotonic_ns() + int(timeout * 1e9)
        rc = lib.gpud_engine_attach(self._engine, socket, body, session, memory, host_memory, deadline)
        if rc < 0 and body.features & FEATURE_VERBS:
            text = ffi.new("char[]", MAX_TEXT)
            lib.gpud_verbs_why(text, MAX_TEXT)
            if why := text_of(bytes(ffi.string(text))):
                lacking = TransportError(why)
                lacking.errno = errno.ENOTSUP  # here: another way may do
                raise lacking
        check(rc, "begin the session")

    def run(self) -> Run:
        """Executes commands until Python is needed or the session is over."""
        return Run(check(lib.gpud_engine_run(self._engine), "run the session"))

    def interrupt(self) -> None:
        """Makes `run` come back soon. Any thread."""
        lib.gpud_engine_interrupt(self._engine)

    def detach(self, status: int, text: str) -> bool:
        """Ends the session (with a BYE unless `status` is STATUS_OK). Whether the engine is as new; if not,
        replace the process.
        """
        rc: int = lib.gpud_engine_detach(self._engine, status, text_bytes(text))
        if rc == -errno.EBUSY:
            return False
        check(rc, "end the session")
        return True

    def image(self) -> Image:
        """The module that `run` came back for with COMPILE. Copied: the client cannot change it any more."""
        image = ffi.new("gpud_image *")
        check(lib.gpud_engine_image(self._engine, image), "read the module's image")
        options = bytes(ffi.buffer(image.options, image.options_size)) if image.options_size else b""
        return Image(
            image.module,
            bytes(ffi.buffer(image.bytes, image.size)) if image.size else b"",
            tuple(one.decode("utf-8", errors="replace") for one in options.split(b"\0")[:-1]),
        )

    def commit(self, kernels: Mapping[str, KernelCode], variables: Mapping[str, GlobalVariable]) -> None:
        """Describes the compiled module to the client: kernels by index in the order given, under the names
        given.
        """
        for name, code in kernels.items():
            params = ffi.new("gpud_param[]", len(code.params))
            for field, param in zip(params, _params(code.params), strict=True):
                field.offset, field.size, field.kind = param
            rc = lib.gpud_engine_module_kernel(
                self._engine,
                name.encode(),
                code.entry,
                params,
                len(code.params),
                code.params_size,
                code.static_shared,
                code.scratch_fixed,
                code.scratch_per_thread,
                code.max_threads,
            )
            check(rc, f"describe the kernel {name}")
        for name, variable in variables.items():
            rc = lib.gpud_engine_module_global(self._engine, name.encode(), variable.address, variable.size)
            check(rc, f"describe the variable {name}")
        check(lib.gpud_engine_module_commit(self._engine), "commit the module")

    def fail(self, status: int, text: str) -> None:
        """Tells the client that its module did not load: STATUS_*, and why (cut to what a message takes)."""
        check(lib.gpud_engine_module_fail(self._engine, status, text_bytes(text)), "refuse the module")

    def unloaded(self) -> Iterator[int]:
        """Numbers of the modules whose code may be freed now."""
        while (module := lib.gpud_engine_next_unloaded(self._engine)) >= 0:
            yield module

    def stats(self) -> dict[str, int]:
        """gpud_engine_stats of the session attached: counts, bytes, nanoseconds."""
        stats = ffi.new("gpud_engine_stats *")
        lib.gpud_engine_get_stats(self._engine, stats)
        return {name: int(getattr(stats, name)) for name in _STATS}


_STATS: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("gpud_engine_stats").fields)


def _params(params: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, int, int]]:
    for offset, size, *kind in params:
        yield offset, size, _PARAM_KINDS[kind[0]] if kind else _PARAM_KINDS["bits"]
