"""Host memory that nobody uses now, kept registered: its pages are faulted in, mapped by the worker or known
to the NIC, and all of that costs many times what a copy does.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpudisagg.regions import Registration

_MOST = 64  # registrations: of the wire's 1024
_SLACK = 65536  # bytes that may be wasted in any case


class Shelf:
    """Registrations by size, the one kept longest given up first. Whoever uses it holds the channel's memory
    lock.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: bytes that may lie here."""
        self.limit = limit
        self.kept = 0
        self._registrations: list[Registration] = []  # the one put last, last

    def __len__(self) -> int:
        return len(self._registrations)

    def take(self, size: int, completed: int, *, in_window: bool) -> Registration | None:
        """The smallest that has `size` bytes and not twice as many, and that no command uses any more."""
        most = max(2 * size, size + _SLACK)
        fitting = [
            one
            for one in self._registrations
            if size <= one.size <= most and one.in_window == in_window and one.last <= completed
        ]
        if not fitting:
            return None
        best = min(fitting, key=lambda one: one.size)
        self._remove(best)
        return best

    def put(self, registration: Registration) -> Iterator[Registration]:
        """Keeps it; yields what there is no room for any more."""
        self._registrations.append(registration)
        self.kept += registration.size
        while self.kept > self.limit or len(self._registrations) > _MOST:
            yield self._remove(self._registrations[0])

    def give_up(self, size: int) -> Iterator[Registration]:
        """Those that must go so that `size` bytes more can be had, as far as there are any."""
        given = 0
        while self._registrations and given < size:
            one = self._remove(self._registrations[0])
            given += one.size
            yield one

    def _remove(self, one: Registration) -> Registration:
        self._registrations.remove(one)
        self.kept -= one.size
        return one
