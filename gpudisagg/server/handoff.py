"""What daemon and worker say to each other over the worker's control socket (SOCK_SEQPACKET, one message per
packet).

The daemon hands over a client's socket beside a Job; the worker says when it is warm and how each session
ended. A worker runs code of its client's choosing, so the daemon takes nothing from it on trust: `decode`
gives a message or HandoffError, and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_type_hints

MAX_PACKET = 32768  # a Job holds a HELLO frame in hex, which is the largest thing here
EXIT_RETIRED = 86  # a worker's exit status: its last session left it in doubt, replace it
EXIT_ORPHAN = 87  # GPUD_EXIT_ORPHAN: its client was gone while a kernel ran

_MAX_TEXT = 8192
_MAX_INTEGER = 2**64 - 1


class HandoffError(Exception):
    """Not a message of this protocol."""


@dataclass(frozen=True)
class Job:
    """Daemon to worker: serve this session; the client's socket travels with it. Memory in bytes."""

    session: int
    memory: int
    host_memory: int
    hello: str  # the client's HELLO frame, in hex


@dataclass(frozen=True)
class Stop:
    """Daemon to worker: end the session if there is one, then exit."""


@dataclass(frozen=True)
class Ready:
    """Worker to daemon: warm. `device` is its device's name."""

    device: str


@dataclass(frozen=True)
class Failed:
    """Worker to daemon: cannot become ready, and why; it exits."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """Worker to daemon: the session is over. `reusable`: the worker is as new; otherwise it exits."""

    session: int
    reason: str
    reusable: bool
    stats: dict[str, int] = field(default_factory=dict)


Message: TypeAlias = Job | Stop | Ready | Failed | Ended
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Job, Stop, Ready, Failed, Ended)}
_FIELDS = {
    name: {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    for name, kind in _KINDS.items()
}


def encode(message: Message) -> bytes:
    data = json.dumps([type(message).__name__, dataclasses.asdict(message)], separators=(",", ":")).encode(
        "ascii"
    )
    if len(data) > MAX_PACKET:
        raise HandoffError(f"a {type(message).__name__} of {len(data)} bytes does not fit a packet")
    return data


def decode(packet: bytes) -> Message:
    """The message in `packet`. HandoffError for anything else, of whatever shape."""
    try:
        value = json.loads(packet.decode("ascii"))
    except (ValueError, RecursionError):
        raise HandoffError(f"{len(packet)} bytes are no message") from None
    if not (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], dict)
    ):
        raise HandoffError("not a pair of kind and fields")
    kind, fields = value
    expected = _FIELDS.get(kind)
    if expected is None or fields.keys() != expected.keys():
        raise HandoffError(f"no message {kind[:32]!r} with the fields {sorted(fields)[:16]}")
    for name, wanted in expected.items():
        if not _is_a(fields[name], wanted):
            raise HandoffError(f"{kind}.{name} is not what it must be")
    return _KINDS[kind](**fields)


def _is_a(value: Any, wanted: Any) -> bool:
    if wanted is int:
        return type(value) is int and 0 <= value <= _MAX_INTEGER
    if wanted is bool:
        return type(value) is bool
    if wanted is str:
        return type(value) is str and len(value) <= _MAX_TEXT
    return type(value) is dict and len(value) <= 64 and all(_is_a(one, int) for one in value.values())


def send(control: socket.socket, message: Message, fd: int | None = None) -> None:
    """Sends one packet, a descriptor beside it. OSError: the other end is gone, or (non-blocking) has
    stopped reading.
    """
    data = encode(message)
    if fd is None:
        control.send(data)
    else:
        socket.send_fds(control, [data], [fd])


def receive(control: socket.socket) -> tuple[Message, int | None] | None:
    """The next message and the descriptor that came with it (the caller's to close); None when the other end
    is closed.

    BlockingIOError on a non-blocking socket with nothing there. HandoffError: not a message; its descriptors
    are closed.
    """
    packet, fds, flags, _ = socket.recv_fds(control, MAX_PACKET, 1)
    fd = fds[0] if fds else None
    for extra in fds[1:]:
        socket.close(extra)
    if not packet:
        if fd is not None:
            socket.close(fd)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise HandoffError("a packet was cut short")
        return decode(packet), fd
    except HandoffError:
        if fd is not None:
            socket.close(fd)
        raise
