"""Memory that both sides reach, as the client has it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transport._transport import ffi, lib
from transport.deadline import sliced
from transport.errors import Closed, PeerGone, check

if TYPE_CHECKING:
    from transport.connection import Connection

__all__ = ["MemoryRegion"]


class MemoryRegion:
    """`array`: its bytes, uint8[size], shared with the worker. Made by `Connection.create_region`.

    The pages stay mapped here as long as any array over them lives, also after drop() and after the
    connection's end.
    """

    number: int
    """Its id on the wire."""
    size: int
    """Bytes, a multiple of the page."""
    array: npt.NDArray[np.uint8]

    def __init__(
        self,
        connection: Connection,
        number: int,
        size: int,
        access: int,
        address: int,
        prefault: bool,
        timeout: float | None,
    ) -> None:
        out = ffi.new("gpud_region **")
        pointer = connection.pointer
        seconds = connection.timeout if timeout is None else timeout
        rc = sliced(
            lambda end: int(
                lib.gpud_region_create(pointer, number, size, access, address, int(prefault), end, out)
            ),
            seconds,
        )
        check(rc, f"region of {size} bytes")
        region = out[0]
        self._connection: Connection | None = connection
        self._region: Any = region
        self.number = number
        self.size = int(lib.gpud_region_size(region))
        # The mapping goes when the last array over it goes: the array holds this pointer, the pointer the
        # region.
        memory = ffi.gc(lib.gpud_region_pointer(region), lambda _: lib.gpud_region_free(region))
        self._memory: Any = memory
        self.array = np.frombuffer(ffi.buffer(memory, self.size), dtype=np.uint8)

    def drop(self, timeout: float | None = None) -> None:
        """Tells the worker to forget it, once the commands before are done. The memory stays valid here.
        Twice is fine.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(PeerGone, Closed):  # then there is nobody to tell
            pointer = connection.pointer
            seconds = connection.timeout if timeout is None else timeout
            rc = sliced(lambda end: int(lib.gpud_region_drop(pointer, self._region, end)), seconds)
            check(rc, f"drop of region {self.number}")
        connection.return_number(self.number)

    def close(self) -> None:
        """Its connection is closing: nothing is sent, the worker drops all regions with the session."""
        self._connection = None

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        state = "" if self._connection is not None else " dropped"
        return f"<MemoryRegion {self.number}: {self.size} bytes{state}>"
