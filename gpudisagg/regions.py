"""Memory of the function's that the worker reaches: counted against what was granted, placed at the window's
top.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from gpudisagg.allocator import Window, round_up
from gpudisagg.errors import OutOfMemory
from gpudisagg.sizes import format_size
from transport import wire
from transport.errors import TransportError

if TYPE_CHECKING:
    from gpudisagg.channel import Channel
    from gpudisagg.session import Session
    from transport.region import MemoryRegion

PAGE = mmap.PAGESIZE


class Budget:
    """How many bytes of regions a session may have, and has. To change it, hold the channel's memory lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> int:
        """Counts `size` bytes, rounded up to the page as regions are; that many. OutOfMemory."""
        size = round_up(size, PAGE)
        if self.used + size > self.limit:
            raise OutOfMemory(
                f"{format_size(size)} of host memory asked, {format_size(self.used)} of "
                f"{format_size(self.limit)} used; drop host arrays that are no longer needed, or "
                "connect(host_memory=...) with more"
            )
        self.used += size
        return size

    def give_back(self, size: int) -> None:
        self.used -= size


class Registration:
    """One memory region as the worker knows it; it outlives the arrays in it, to be used by others (Shelf).

    size: bytes, a multiple of the page. number: its id on the wire. address: where kernels see it, 0:
    nowhere. array: its bytes. `last`: the last command that may still use it. `watched`: whether the
    worker was told of an array in it.
    """

    def __init__(self, channel: Channel, budget: Budget, window: Window | None, size: int) -> None:
        self._region: MemoryRegion | None = None
        self._window = window
        self._budget = budget
        self.size = budget.take(max(size, 1))
        self.address = 0
        self.last = 0
        self.watched = False
        try:
            if window is not None:
                address = window.place(self.size, from_top=True)
                if address is None:
                    raise OutOfMemory(
                        f"no {format_size(size)} of consecutive addresses are left in the session's window"
                    )
                self.address = address
            region = channel.create_region(self.size, self.address)
        except BaseException:
            self._settle()
            raise
        self._region = region
        self.number: int = region.number
        self.array: np.ndarray[Any, Any] = region.array  # which keeps the mapping

    @property
    def in_window(self) -> bool:
        return self._window is not None

    def drop(self, *, tell: bool) -> None:
        """Gives the region back, `tell`: to the worker as well, behind every command posted before."""
        region, self._region = self._region, None
        if region is None:
            return
        try:
            if tell:
                region.drop()
        except TransportError:
            pass  # the connection is gone, and with it the worker's side of the region
        finally:
            self._settle()

    def _settle(self) -> None:
        self._budget.give_back(self.size)
        if self._window is not None and self.address:
            self._window.give_back(self.address)


class Pages:
    """A registration for as long as anything refers to it; numpy makes arrays of it (the array interface).

    session: whose it is.
    """

    def __init__(self, session: Session, registration: Registration) -> None:
        self.session: Session | None = session
        self.registration: Registration | None = registration
        self.size = registration.size
        self.number = registration.number
        self.address = registration.address
        # The array keeps the mapping; what is seen of it through numpy keeps `self`.
        self._array = registration.array
        self.__array_interface__ = self._array.__array_interface__
        self._begin = int(self.__array_interface__["data"][0])

    def holds(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether the first element lies in this memory; of an array without elements: where it would."""
        return 0 <= self.offset_of(array) <= self.size - min(array.nbytes, 1)

    def offset_of(self, array: np.ndarray[Any, Any]) -> int:
        """Bytes from the region's beginning to the array's first element."""
        return int(array.__array_interface__["data"][0]) - self._begin

    def __del__(self) -> None:
        registration, self.registration = self.registration, None
        if registration is not None and self.session is not None:
            self.session.pool.bury(registration)


def reachable(features: int) -> bool:
    """Whether kernels can dereference a region in place."""
    return bool(features & wire.FEATURE_HOST_MAP)
