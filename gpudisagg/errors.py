"""Everything that can go wrong, one exception for each.

    GpuDisaggError
    ├── SessionRefused        the server said no, or there is none
    │   ├── ServerBusy        every worker is taken; .retry_after says when to try again
    │   ├── VersionMismatch   no protocol version in common
    │   └── TlsUnavailable    TLS was asked for and cannot be had
    ├── SessionLost           the worker or the server died
    ├── SessionClosed         used after close()
    ├── ForkedSession         used in a process that was forked after connect()
    ├── DeadlineExceeded      also a TimeoutError
    ├── OutOfMemory           also a MemoryError
    ├── CompileError          .log
    ├── CommandError          .command .kernel .sequence .reason
    │   ├── DeviceFault       .address .block .thread
    │   └── InvalidCommand    also a ValueError
    └── ProtocolError         the two sides do not understand each other

Commands are posted, not waited for, so a `CommandError` is raised by the next call that waits, and by every
one after it: a session in which a command failed stays failed, as a CUDA context does.
"""

from __future__ import annotations

__all__ = [
    "CommandError",
    "CompileError",
    "DeadlineExceeded",
    "DeviceFault",
    "ForkedSession",
    "GpuDisaggError",
    "InvalidCommand",
    "OutOfMemory",
    "ProtocolError",
    "ServerBusy",
    "SessionClosed",
    "SessionLost",
    "SessionRefused",
    "TlsUnavailable",
    "VersionMismatch",
]


class GpuDisaggError(Exception):
    """The base of every error of this package."""


class SessionRefused(GpuDisaggError):
    """No session was opened. `retry_after`: seconds after which trying again makes sense, or None."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerBusy(SessionRefused):
    """Every worker is taken and none came free before the deadline."""


class VersionMismatch(SessionRefused):
    """Client and server have no protocol version in common."""


class TlsUnavailable(SessionRefused):
    """TLS was asked for and the kernel, the library or the context can't do it as the transport needs it; the
    message says what is missing. Nothing was sent in the clear.
    """


class SessionLost(GpuDisaggError):
    """The worker or the server died or hung up. What was on the device is gone; connect again."""


class SessionClosed(GpuDisaggError):
    """The session was used after `close()`."""


class ForkedSession(GpuDisaggError):
    """The session belongs to the process that this one was forked from, where it goes on undisturbed."""


class DeadlineExceeded(GpuDisaggError, TimeoutError):
    """A wait ended before what it waited for. The session goes on: waiting again is allowed."""


class OutOfMemory(GpuDisaggError, MemoryError):
    """The session's limit, or the host's memory, doesn't hold it."""


class CompileError(GpuDisaggError):
    """Device code was refused. `log` is what the compiler said, whole or its head."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class CommandError(GpuDisaggError):
    """A posted command failed on the device.

    command: its name on the wire ("LAUNCH", "COPY_IN", ...).
    kernel: the kernel's name where it was a launch, else None.
    sequence: which command of the session it was, counted from 1.
    reason: the worker's words.
    """

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        kernel: str | None = None,
        sequence: int = 0,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.command = command
        self.kernel = kernel
        self.sequence = sequence
        self.reason = reason


class DeviceFault(CommandError):
    """A kernel made a wild access, trapped, or was stopped.

    address: the offending device address, or 0 where there is none.
    block: (x, y, z) of the block that did it.
    thread: linear index in that block, or None where the device can't tell.
    """

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        kernel: str | None = None,
        sequence: int = 0,
        reason: str = "",
        address: int = 0,
        block: tuple[int, int, int] = (0, 0, 0),
        thread: int | None = None,
    ) -> None:
        super().__init__(message, command=command, kernel=kernel, sequence=sequence, reason=reason)
        self.address = address
        self.block = block
        self.thread = thread


class InvalidCommand(CommandError, ValueError):
    """An argument that no device takes: an address, a size, a grid, an id."""


class ProtocolError(GpuDisaggError):
    """What came over the wire makes no sense. Are client and server of the same release?"""
