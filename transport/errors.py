"""What can go wrong on a connection, and the one way from -errno to an exception.

The type says whose fault it is: the peer died (PeerGone), the peer broke the protocol (ProtocolError), the
peer said no (Refused), time ran out (DeadlineExceeded), this side is closed (Closed), a command failed
(SessionFaulted).
"""

from __future__ import annotations

import errno
import os

__all__ = [
    "Closed",
    "DeadlineExceeded",
    "PeerGone",
    "ProtocolError",
    "Refused",
    "SessionFaulted",
    "TlsUnavailable",
    "TransportError",
    "check",
]


class TransportError(Exception):
    """Base of all errors of this package; itself raised for what the operating system refused.

    `errno`: what C returned, negated; None where the error is Python's own.
    """

    errno: int | None = None


class PeerGone(TransportError):
    """The other side died or hung up. Final for the connection: open a new one."""


class DeadlineExceeded(TransportError, TimeoutError):
    """The time given was not enough. The connection is as it was: waiting again is allowed."""


class ProtocolError(TransportError):
    """The other side (or the bytes given) broke the protocol. Final for the connection."""


class Closed(TransportError):
    """This side was closed, or was forgotten in a forked child."""


class SessionFaulted(TransportError):
    """A command failed on the worker; a FAULT message that says which is there to be received."""


class TlsUnavailable(TransportError):
    """TLS was asked for and cannot be had: the message says what is missing. Nothing was sent in the
    clear.
    """


class Refused(TransportError):
    """The server did not take the session.

    `status` is a STATUS_* of transport.wire, `reason` the server's words, `retry_ms` how long to wait before
    another try makes sense (0: it does not).
    """

    def __init__(self, status: int, reason: str, retry_ms: int = 0) -> None:
        super().__init__(status, reason, retry_ms)
        self.status = status
        self.reason = reason
        self.retry_ms = retry_ms

    def __str__(self) -> str:
        again = f" (try again in {self.retry_ms} ms)" if self.retry_ms else ""
        return f"the server refused the session: {self.reason}{again}"


_TYPES: dict[int, tuple[type[TransportError], str]] = {
    errno.EPIPE: (PeerGone, "the other side is gone; open a new connection"),
    errno.ECONNRESET: (PeerGone, "the other side is gone; open a new connection"),
    errno.ETIMEDOUT: (DeadlineExceeded, "the time given was not enough; wait again, or give up and close"),
    errno.EAGAIN: (DeadlineExceeded, "nothing there yet; wait again, or give up and close"),
    errno.EPROTO: (ProtocolError, "the other side broke the protocol; close this connection"),
    errno.ESHUTDOWN: (Closed, "this connection is closed on this side; open a new one"),
    errno.EIO: (SessionFaulted, "a command failed; the FAULT message says which and why"),
}


def check(rc: int, what: str) -> int:
    """Returns `rc` where it is no error, else raises what -errno means; `what` names the attempt: "wait"."""
    if rc >= 0:
        return rc
    kind, advice = _TYPES.get(-rc, (TransportError, ""))
    if not advice:
        advice = f"{os.strerror(-rc)} ({errno.errorcode.get(-rc, -rc)})"
    error = kind(f"{what}: {advice}")
    error.errno = -rc
    try:
        raise error
    finally:
        del error  # its traceback has this frame: a cycle, which would keep the connections of its callers
