"""Streams and events: order and time on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpudisagg.errors import CommandError
from gpudisagg.pool import Command
from transport import wire

if TYPE_CHECKING:
    from gpudisagg.session import Session


class Stream:
    """Commands on a stream run in the order posted; those on different streams may overlap.

    Made by `Session.stream()`. As a context manager it is this thread's current stream for its session:
    launches, copies and fills inside go on it unless they name another. Today's devices run all streams in
    the order of posting, which is one legal order.
    """

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self._owner = _StreamOwner(session, number) if number else None
        self._entered: list[int] = []

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything posted on it so far is done (today: on any stream).

        timeout: seconds, the session's by default. DeadlineExceeded, and whatever failed before on the
        session.
        """
        self.session.synchronize(timeout)

    def wait_event(self, event: Event) -> None:
        """What is posted on this stream from now on waits for `event`. Posted, not waited for."""
        event._check(self.session)
        self.session.channel.post(wire.OP_EVENT_WAIT, self.number, wire.EventRef(event.number).pack())

    def record(self, event: Event | None = None) -> Event:
        """Records `event`, a new one by default, behind what was posted so far."""
        event = event or self.session.event()
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        self._entered.append(self.session.current.number)
        self.session.current.number = self.number
        return self

    def __exit__(self, *exc: object) -> None:
        self.session.current.number = self._entered.pop()

    def __repr__(self) -> str:
        return f"<Stream {self.number}>"


class _StreamOwner:
    """Destroys the stream when nothing refers to it, behind all that was posted on it."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number
        self._created = False
        session.channel.post(wire.OP_STREAM_CREATE, number, b"")
        self._created = True
        session.pool.stream_created(number)

    def __del__(self) -> None:
        if not self._created:
            return  # the command for it never left
        pool = self._session.pool
        event = wire.EventRef(self._number).pack()
        # Memory it still uses is accounted to the default stream from here on, so that one must come after
        # it.
        pool.bury(Command(wire.OP_EVENT_RECORD, self._number, event))
        pool.bury(Command(wire.OP_EVENT_WAIT, 0, event))
        pool.bury(Command(wire.OP_EVENT_DESTROY, 0, event))
        pool.bury(Command(wire.OP_STREAM_DESTROY, self._number, b""))


class Event:
    """A point in a stream, with the device's time at it. Made by `Session.event()`."""

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self._sequence = 0

    def record(self, stream: Stream | None = None) -> None:
        """Marks the point behind everything posted so far on `stream` (the current one by default). Recording
        again moves it.
        """
        body = wire.EventRef(self.number).pack()
        number = self.session.stream_number(stream)
        self._sequence = self.session.channel.post(wire.OP_EVENT_RECORD, number, body)

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until the point has been reached; returns at once if it was never recorded.

        timeout: seconds, the session's by default. DeadlineExceeded, and whatever failed before on the
        session.
        """
        self.session.channel.wait(self._sequence, timeout)

    @property
    def done(self) -> bool:
        """Whether the point has been reached; True if it was never recorded. Never waits."""
        return self.session.channel.completed() >= self._sequence

    def nanoseconds(self, timeout: float | None = None) -> int:
        """The device's time at it, ns: only differences mean anything. Waits until it has been reached.

        ValueError: never recorded. Else as `synchronize`.
        """
        if not self._sequence:
            raise ValueError("the event was never recorded")
        self.synchronize(timeout)
        body = wire.EventRef(self.number).pack()
        parts = self.session.channel.ask(
            wire.OP_EVENT_TIME, self.number, wire.OP_EVENT_QUERY, 0, body, timeout
        )
        time: wire.EventTime = parts[0]
        if time.status != wire.STATUS_OK:
            raise CommandError(
                f"the device has no time for the event: {wire.status_name(time.status)}",
                command="EVENT_QUERY",
            )
        return time.nanoseconds

    def _check(self, session: Session) -> None:
        if self.session is not session:
            raise ValueError("the event belongs to another session")

    def __del__(self) -> None:
        if self._sequence:
            self.session.pool.bury(Command(wire.OP_EVENT_DESTROY, 0, wire.EventRef(self.number).pack()))

    def __repr__(self) -> str:
        return f"<Event {self.number}>"


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds on the device from `start` to `end`, both recorded; waits until both have been reached.

    ValueError: one was never recorded, or they belong to different sessions.
    """
    start._check(end.session)
    return (end.nanoseconds() - start.nanoseconds()) / 1e6
