"""Pageable memory to and from the device, through one pooled region (csrc/transport/bulk.h)."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transport._transport import ffi, lib
from transport.deadline import deadline_ns, sliced
from transport.errors import Closed, DeadlineExceeded, check

if TYPE_CHECKING:
    from transport.connection import Connection

__all__ = ["BULK_INLINE", "STAGE_CHUNKS", "STAGE_CHUNK_SIZE", "Stage"]

# A transfer is cut into pieces, each tried for so long: between them a signal's handler (Ctrl-C) runs. What
# of a piece was not through by then is tried again.
_PIECE_TIMEOUT = 1.0

STAGE_CHUNKS: int = lib.GPUD_STAGE_CHUNKS
"""How many chunks of STAGE_CHUNK_SIZE bytes suit large transfers."""
STAGE_CHUNK_SIZE: int = lib.GPUD_STAGE_CHUNK_SIZE
BULK_INLINE: int = lib.GPUD_BULK_INLINE
"""Bytes that a put sends in the command itself, without a chunk."""


class Stage:
    """`chunks` buffers of `chunk_size` bytes each; several threads may use it, their transfers go one after
    another.
    """

    def __init__(self, connection: Connection, number: int | None, chunks: int, chunk_size: int) -> None:
        """`number`: of its region, None for a free one."""
        self.number = connection.take_number(number)
        self._connection: Connection | None = connection
        self._kept: list[npt.NDArray[Any]] = []  # memory that may still be written to
        self._turn = threading.Lock()
        out = ffi.new("gpud_stage **")
        pointer = connection.pointer
        rc = sliced(
            lambda end: int(lib.gpud_stage_create(pointer, self.number, chunks, chunk_size, end, out)),
            connection.timeout,
        )
        if rc < 0:
            connection.return_number(self.number)
            check(rc, f"stage of {chunks} × {chunk_size} bytes")
        self._put_piece = int(lib.gpud_stage_piece(out[0], 1))
        self._get_piece = int(lib.gpud_stage_piece(out[0], 0))
        # Its destructor may use the connection, which so lives as long as the stage.
        self._stage: Any = ffi.gc(out[0], lambda stage, _connection=pointer: lib.gpud_stage_free(stage))
        connection.adopt(self)

    def put(
        self, address: int, source: npt.NDArray[Any], stream: int = 0, timeout: float | None = None
    ) -> int:
        """`source` (C-contiguous) to device `address`; the sequence number of its last command.

        Returns when `source` may be reused; the bytes may still be on their way. DeadlineExceeded,
        SessionFaulted.
        """
        data = ffi.from_buffer(_bytes(source))
        stage = self._live("put")
        call = lib.gpud_bulk_put_some
        done = ffi.new("uint64_t *")
        return self._pieces(
            lambda at, size, end: (
                int(call(stage, address + at, data + at, size, stream, end, done)),
                int(done[0]),
            ),
            source.nbytes,
            self._put_piece,
            timeout,
            "put",
        )

    def get(
        self, destination: npt.NDArray[Any], address: int, stream: int = 0, timeout: float | None = None
    ) -> int:
        """Device `address` to `destination` (C-contiguous, writable), there on return. Errors as put()."""
        if not destination.flags.writeable:
            raise ValueError("the destination is read-only: give an array of your own (numpy.empty_like)")
        data = ffi.from_buffer(_bytes(destination), require_writable=True)
        stage = self._live("get")
        call = lib.gpud_bulk_get
        try:
            return self._pieces(
                # The same call, repeated, goes on where it was.
                lambda at, size, end: (int(call(stage, data + at, address + at, size, stream, end)), 0),
                destination.nbytes,
                self._get_piece,
                timeout,
                "get",
            )
        except BaseException:
            # Bytes may still be on their way into an array that is not ours from here on.
            if lib.gpud_stage_abandon(stage, data, destination.nbytes) < 0:
                self._kept.append(destination)
            raise

    def _pieces(
        self,
        move: Callable[[int, int, int], tuple[int, int]],
        size: int,
        most: int,
        timeout: float | None,
        what: str,
    ) -> int:
        """`move` gives a sequence number or -errno, and how many bytes were through although it failed."""
        connection = self._connection
        if connection is None:
            raise Closed(f"{what}: the connection of this stage is closed")
        seconds = connection.timeout if timeout is None else timeout
        end = deadline_ns(seconds)
        # One transfer at a time: a get that takes several calls goes on in each where it was.
        if not self._turn.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            raise DeadlineExceeded(f"{what} of {size} bytes: another transfer took all of {seconds:g} s")
        try:
            sequence = 0
            at = 0
            while True:
                piece = min(most, size - at)
                deadline = min(end, deadline_ns(_PIECE_TIMEOUT))
                rc, done = move(at, piece, deadline)
                if rc == -errno.ETIMEDOUT:
                    at += done
                if rc == -errno.ETIMEDOUT and deadline < end:
                    # The worker is busy with what came before; wait for that, then go on.
                    with contextlib.suppress(DeadlineExceeded):
                        connection.wait(connection.posted, (end - deadline_ns(0)) / 1e9)
                    continue
                if rc == -errno.ETIMEDOUT:
                    raise DeadlineExceeded(f"{what} of {size} bytes: {at} were through after {seconds:g} s")
                sequence = check(rc, f"{what} of {size} bytes")
                at += piece
                if at >= size:
                    return sequence
        finally:
            self._turn.release()

    def _live(self, what: str) -> Any:
        if self._stage is None:
            raise Closed(f"{what}: the connection of this stage is closed")
        return self._stage

    def close(self) -> None:
        """Gives its memory back. Twice is fine."""
        connection, self._connection = self._connection, None
        self._stage = None
        if connection is not None:
            connection.return_number(self.number)


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not array.flags.c_contiguous:
        raise ValueError("only C-contiguous arrays can be staged: copy it first (numpy.ascontiguousarray)")
    return array.reshape(-1).view(np.uint8)
