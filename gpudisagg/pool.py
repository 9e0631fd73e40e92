"""The session's memory: blocks and regions for its arrays, and what the garbage collector let go of.

A finalizer may run at any moment, in a thread that holds any lock. So `bury` takes no lock that it would wait
for: what died is put in a queue, and emptied now if nobody is at work here, else by whoever is.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from gpudisagg.allocator import Allocator, Block, Usage, Window, round_up
from gpudisagg.errors import GpuDisaggError, OutOfMemory
from gpudisagg.regions import PAGE, Pages, Registration, reachable
from gpudisagg.shelf import Shelf
from gpudisagg.watch import Watch, margin
from transport import wire
from transport.errors import TransportError

if TYPE_CHECKING:
    from gpudisagg.channel import Channel
    from gpudisagg.regions import Budget
    from gpudisagg.session import Session

_HANDOVER_EVENT = 0xFFFFFFFF  # one event for all waits across streams: it's recorded anew each time


_KEPT_PART = 4  # of the session's host memory, how much may be kept for reuse,
_KEPT_MOST = 1 << 30  # and bytes


class Command(NamedTuple):
    """A command to post when its subject has died."""

    op: int
    stream: int
    body: bytes


class DeviceMemory:
    """A block of device memory, given back when nothing refers to this any more.

    zeroed: whether it had never been used when it was taken.
    """

    __slots__ = ("_pool", "block", "zeroed")

    def __init__(self, pool: Pool, block: Block, zeroed: bool) -> None:
        self._pool = pool
        self.block = block
        self.zeroed = zeroed

    def __del__(self) -> None:
        self._pool.bury(self.block)


class Pool:
    """Any thread may use it."""

    def __init__(self, channel: Channel, welcome: wire.Welcome, budget: Budget) -> None:
        self._channel = channel
        self._budget = budget
        self._dead: deque[Block | Registration | Command] = deque()
        self._window = Window(welcome.window_base, welcome.window_size, welcome.granularity)
        self._maps_regions = reachable(welcome.features)
        self._shelf = Shelf(min(welcome.host_memory // _KEPT_PART, _KEPT_MOST))
        self._allocator = Allocator(self._window, welcome.memory, self._map, self._unmap)
        self._leaving: list[Registration] = []  # to be dropped once no command needs them
        self._streams = frozenset({0})
        self.watch: Watch | None = None
        if welcome.features & wire.FEATURE_CHECK:
            self.watch = Watch(channel, welcome.memory, self._release)
            self._window.gap = welcome.granularity
        self._forked = False

    def allocate(self, size: int, stream: int, label: str = "") -> DeviceMemory:
        """`size` > 0 bytes for use on `stream`. `label`: what they are, if that is watched. OutOfMemory."""
        if not self._channel.usable:
            self._channel.check()
        with self._channel.memory_lock:
            self._empty()
            block = self._allocator.allocate(size) if self.watch is None else self._watched(size, label)
            zeroed = not block.streams
            if len(self._streams) > 1 or len(block.streams) > 1:
                self._hand_over(block.streams, stream)
        self.reap()
        return DeviceMemory(self, block, zeroed)

    def _watched(self, size: int, label: str) -> Block:
        watch = self.watch
        assert watch is not None
        wanted = size + margin(size)
        try:
            block = self._allocator.allocate(wanted)
        except OutOfMemory:
            if not watch.give_up():
                raise
            block = self._allocator.allocate(wanted)
        watch.add(block.address, size, block.size, label)
        return block

    def _release(self, block: Block) -> None:
        # Which streams it was used on isn't tracked, that would cost every launch: it may be any there is.
        self._allocator.release(block, self._streams)

    def pages(self, session: Session, size: int, *, in_window: bool, label: str = "") -> tuple[Pages, bool]:
        """A region of at least `size` bytes that the worker reaches, and whether they are zero; `in_window`:
        kernels reach it too, where the device can. OutOfMemory.
        """
        if not self._channel.usable:
            self._channel.check()
        with self._channel.memory_lock:
            self._empty()
            window = self._window if in_window and self._maps_regions else None
            self._let_go()
            kept = self._shelf.take(size, self._channel.completed(), in_window=window is not None)
            registration = kept or self._register(window, size)
            pages = Pages(session, registration)
            if self.watch is not None and pages.address and size:
                self.watch.add(pages.address, size, pages.size, label)
                registration.watched = True
        self.reap()
        return pages, kept is None

    def _register(self, window: Window | None, size: int) -> Registration:
        missing = self._budget.used + round_up(max(size, 1), PAGE) - self._budget.limit
        for one in self._shelf.give_up(missing):
            self._drop(one)
        if missing > 0 and self._leaving:
            self._channel.wait(max(one.last for one in self._leaving))
            self._let_go()
        return Registration(self._channel, self._budget, window, size)

    def usage(self) -> Usage:
        with self._channel.memory_lock:
            self._empty()
            usage = self._allocator.usage()
            held = 0 if self.watch is None else self.watch.held
            return usage._replace(used=usage.used - held)

    def host_kept(self) -> int:
        """Bytes of host memory that no array uses, kept for reuse."""
        with self._channel.memory_lock:
            self._empty()
            self._let_go()
            return self._shelf.kept

    def trim(self) -> int:
        """Unmaps what is wholly free, and drops unused host memory. Bytes of device memory given back."""
        with self._channel.memory_lock:
            self._empty()
            for one in self._shelf.give_up(self._shelf.kept):
                self._drop(one)
            self._let_go()
            if self.watch is not None:
                self.watch.give_up()
            return self._allocator.trim()

    def stream_created(self, number: int) -> None:
        with self._channel.memory_lock:
            self._streams |= {number}

    def bury(self, dead: Block | Registration | Command) -> None:
        """Gives back `dead` soon. Never waits for a lock, so finalizers may call it."""
        if not self._forked:
            self._dead.append(dead)
            self.reap()

    def reap(self) -> None:
        """Empties the queue unless somebody is at work here, who will."""
        lock = self._channel.memory_lock
        while self._dead and lock.acquire(blocking=False):
            try:
                self._empty()
            finally:
                lock.release()

    def forked(self) -> None:
        """In the child, after fork."""
        self._forked = True  # nothing here is ours any more, so nothing is given back

    def _empty(self) -> None:
        while self._dead:
            dead = self._dead.popleft()
            if isinstance(dead, Block):
                if self.watch is None:
                    self._release(dead)
                else:
                    self.watch.hold(dead)
                continue
            if isinstance(dead, Registration):
                self._put_away(dead)
                continue
            if dead.op == wire.OP_STREAM_DESTROY:
                self._streams -= {dead.stream}
            if self._channel.usable:
                with contextlib.suppress(GpuDisaggError):  # then it is over, and its worker frees all it had
                    self._channel.post(*dead)

    def _put_away(self, dead: Registration) -> None:
        if self.watch is not None and dead.watched:
            dead.watched = False
            self.watch.drop(dead.address)
        if not self._channel.usable:
            dead.drop(tell=False)
            return
        with contextlib.suppress(TransportError):  # closed by another thread just now
            dead.last = self._channel.connection.posted
        for one in self._shelf.put(dead):
            self._drop(one)

    def _drop(self, one: Registration) -> None:
        """Where the worker has no mapping of its own, the bytes of commands may still have to be sent from
        there, behind whatever the worker is at: that is not waited for here.
        """
        if self._maps_regions or not self._channel.usable:
            one.drop(tell=self._channel.usable)
            return
        self._leaving.append(one)
        self._let_go()

    def _let_go(self) -> None:
        if not self._leaving or not self._channel.usable:
            return
        try:
            completed = self._channel.completed()
        except GpuDisaggError:  # closed just now
            return
        leaving, self._leaving = self._leaving, []
        for one in leaving:
            if one.last <= completed:
                one.drop(tell=True)
            else:
                self._leaving.append(one)

    def _hand_over(self, streams: frozenset[int], stream: int) -> None:
        """Makes `stream` wait for what the others may still do with the memory it gets."""
        for number in {s if s in self._streams else 0 for s in streams} - {stream}:
            body = wire.EventRef(_HANDOVER_EVENT).pack()
            self._channel.post(wire.OP_EVENT_RECORD, number, body)
            self._channel.post(wire.OP_EVENT_WAIT, stream, body)

    def _map(self, address: int, size: int) -> None:
        self._channel.post(wire.OP_MAP, 0, wire.Map(address, size).pack())

    def _unmap(self, address: int, size: int) -> None:
        if self._channel.usable:
            self._channel.post(wire.OP_UNMAP, 0, wire.Map(address, size).pack())
