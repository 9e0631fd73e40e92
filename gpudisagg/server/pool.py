"""Which workers there are and what each may do next: a table that knows nothing of processes or sockets."""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar


class State(enum.Enum):
    STARTING = "starting"  # its process runs; no engine or compiler yet
    WARM = "warm"  # can take a session this instant
    BUSY = "busy"  # has one
    DOUBTFUL = "doubtful"  # will get no session any more; its process is on its way out
    DEAD = "dead"  # its process is gone and reaped


class Event(enum.Enum):
    READY = "ready"  # the worker says that it is warm
    ASSIGNED = "assigned"  # a session was given to it
    ENDED = "ended"  # the worker says that its session is over and it is as new
    RETIRED = "retired"  # it says that it must be replaced, misbehaves, or is being stopped
    EXITED = "exited"  # the kernel says that its process is gone


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.READY): State.WARM,
    (State.STARTING, Event.RETIRED): State.DOUBTFUL,
    (State.STARTING, Event.EXITED): State.DEAD,
    (State.WARM, Event.ASSIGNED): State.BUSY,
    (State.WARM, Event.RETIRED): State.DOUBTFUL,
    (State.WARM, Event.EXITED): State.DEAD,
    (State.BUSY, Event.ENDED): State.WARM,
    (State.BUSY, Event.RETIRED): State.DOUBTFUL,
    (State.BUSY, Event.EXITED): State.DEAD,
    (State.DOUBTFUL, Event.RETIRED): State.DOUBTFUL,
    (State.DOUBTFUL, Event.EXITED): State.DEAD,
}


class PoolError(Exception):
    """An event that cannot happen in the worker's state."""


Member = TypeVar("Member", bound=Hashable)


class Pool(Generic[Member]):
    """The workers and their states. Dead ones are forgotten."""

    def __init__(self) -> None:
        self._states: dict[Member, State] = {}
        # The one that became warm last is at the end and goes first: its code cache is likeliest to hit.
        self._warm: dict[Member, None] = {}

    def add(self, member: Member) -> None:
        if member in self._states:
            raise PoolError(f"{member!r} is in the pool already")
        self._states[member] = State.STARTING

    def apply(self, member: Member, event: Event) -> State:
        """The member's next state. PoolError: the event cannot happen now; nothing has changed."""
        state = self._states.get(member, State.DEAD)
        following = TRANSITIONS.get((state, event))
        if following is None:
            raise PoolError(f"a {state.value} worker cannot be {event.value}")
        if following is State.DEAD:
            del self._states[member]
        else:
            self._states[member] = following
        if following is State.WARM:
            self._warm[member] = None
        else:
            self._warm.pop(member, None)
        return following

    def take(self) -> Member | None:
        """A warm worker, now busy; None where there is none."""
        if not self._warm:
            return None
        member = next(reversed(self._warm))
        self.apply(member, Event.ASSIGNED)
        return member

    def state(self, member: Member) -> State:
        return self._states.get(member, State.DEAD)

    def members(self) -> list[Member]:
        return list(self._states)

    def counts(self) -> dict[str, int]:
        """How many workers are in each state but dead, by the state's name; all of them, zeros too."""
        counted = Counter(self._states.values())
        return {state.value: counted[state] for state in State if state is not State.DEAD}


class Backoff:
    """How long to wait before the next worker is started, so that one that cannot live is not started
    without end.

    Only deaths without a session count (while starting, or warm): sessions limit the rate of the others. The
    first is replaced at once, each further one in a row waits twice as long.
    """

    FIRST = 0.1
    LONGEST = 30.0
    FORGIVEN_AFTER = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0.0
        self.failures = 0

    def failed(self) -> float:
        """One more has died; the seconds to wait."""
        now = self._clock()
        if now - self._last > self.FORGIVEN_AFTER + self.LONGEST:
            self.failures = 0
        self._last = now
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return min(self.FIRST * 2.0 ** min(self.failures - 2, 32), self.LONGEST)

    def succeeded(self) -> None:
        """A worker has served a session to its end."""
        self.failures = 0
