"""From what the server says went wrong to the exception that says it to the user."""

from __future__ import annotations

from collections.abc import Callable

from gpudisagg.errors import (
    CommandError,
    CompileError,
    DeviceFault,
    GpuDisaggError,
    InvalidCommand,
    OutOfMemory,
    ProtocolError,
    ServerBusy,
    SessionLost,
    SessionRefused,
    VersionMismatch,
)
from transport import wire
from transport.errors import Refused

_INVALID = (wire.STATUS_INVALID, wire.STATUS_NOT_FOUND)
_AFTERWARDS = "the session stays failed: close it and connect again"


def refused(error: Refused, address: str) -> SessionRefused:
    """REFUSED: why `address` opened no session."""
    kinds = {
        wire.STATUS_BUSY: ServerBusy,
        wire.STATUS_DEADLINE: ServerBusy,
        wire.STATUS_VERSION: VersionMismatch,
    }
    kind = kinds.get(error.status, SessionRefused)
    retry_after = error.retry_ms / 1000 if error.retry_ms else None
    again = f"; try again in {retry_after:g} s" if retry_after else ""
    return kind(
        f"{address}: {error.reason or wire.status_name(error.status)}{again}", retry_after=retry_after
    )


def fault(fault: wire.Fault, kernel_name: Callable[[int, int], str | None]) -> GpuDisaggError:
    """FAULT: what failed. `kernel_name` knows a kernel by its module and its index."""
    command = wire.op_name(fault.op)
    kernel = kernel_name(fault.module, fault.kernel) if fault.op == wire.OP_LAUNCH else None
    what = f"kernel {kernel}" if kernel else command
    reason = fault.reason or wire.status_name(fault.status)
    if kernel and reason.startswith("kernel '"):  # by its mangled name, perhaps: ours is the user's
        reason = reason.partition("': ")[2] or reason
    message = f"{what} (command {fault.sequence}) failed: {reason}; {_AFTERWARDS}"
    if fault.status == wire.STATUS_OUT_OF_MEMORY:
        return OutOfMemory(message)
    if fault.status == wire.STATUS_PROTOCOL:
        return ProtocolError(message)
    if fault.status == wire.STATUS_DEVICE_FAULT:
        return DeviceFault(
            message,
            command=command,
            kernel=kernel,
            sequence=fault.sequence,
            reason=reason,
            address=fault.address,
            block=fault.block,
            thread=None if fault.thread == wire.UNKNOWN_THREAD else fault.thread,
        )
    kind = InvalidCommand if fault.status in _INVALID else CommandError
    return kind(message, command=command, kernel=kernel, sequence=fault.sequence, reason=reason)


def module(status: wire.ModuleStatus) -> GpuDisaggError:
    """MODULE_STATUS other than OK: why a module was not loaded. The session goes on."""
    head = next((line for line in status.log.splitlines() if line.strip()), wire.status_name(status.status))
    if status.status == wire.STATUS_OUT_OF_MEMORY:
        return OutOfMemory(f"the module does not fit: {status.log}")
    if status.status in (wire.STATUS_COMPILE, wire.STATUS_UNSUPPORTED):
        return CompileError(f"the device code was refused: {head}", log=status.log)
    return InvalidCommand(
        f"the module was not loaded: {head}", command="MODULE_LOAD", reason=status.log or head
    )


def lost(address: str, bye: wire.Bye | None, reason: str = "") -> SessionLost:
    """The other side is gone; `bye`: its last word, if any; `reason`: the link's, if any."""
    if bye is None:
        why = f" ({reason})" if reason else ""
        return SessionLost(
            f"the worker behind {address} died or hung up{why}; what was on the device is lost. "
            "Connect again; the server's log says more"
        )
    why = bye.reason or wire.status_name(bye.status)
    return SessionLost(f"the server at {address} ended the session: {why}. Connect again")
