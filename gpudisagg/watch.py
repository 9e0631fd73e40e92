"""A checked session's arrays, as the worker is told of them, so that its kernels are held to their bounds.

Behind each array some memory stays empty, and what is freed is not used again for a while: so an access past
the end, or to an array that is gone, finds nothing that would make it look right.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gpudisagg.allocator import Block
from gpudisagg.errors import GpuDisaggError
from transport import wire

if TYPE_CHECKING:
    from gpudisagg.channel import Channel

_MARGIN_LEAST = 512  # bytes that stay empty behind an array,
_MARGIN_MOST = 64 << 10
_MARGIN_PART = 8  # or as a part of it
_HELD_PART = 4  # of the session's memory, how much may be held back though it is free,
_HELD_MOST = 1 << 30  # and bytes
_PACKAGE = str(Path(__file__).parent)


def margin(size: int) -> int:
    """Bytes to leave empty behind an array of `size` bytes."""
    return min(max(size // _MARGIN_PART, _MARGIN_LEAST), _MARGIN_MOST)


def describe(shape: tuple[int, ...], dtype: object) -> str:
    """An array in words, and where in the program it is being made."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    return f"{dtype}[{', '.join(map(str, shape))}] made at {place}"


class Watch:
    """Tells the worker. Whoever uses it holds the memory lock; `release` gives a block to the allocator."""

    def __init__(self, channel: Channel, memory: int, release: Callable[[Block], None]) -> None:
        self._channel = channel
        self._release = release
        self._held: deque[Block] = deque()
        self._most = min(memory // _HELD_PART, _HELD_MOST)
        self.held = 0  # bytes of blocks that are free, and not yet used again

    def add(self, address: int, size: int, room: int, label: str) -> None:
        """An array comes to be."""
        label = label.encode("ascii", "replace")[: wire.MAX_LABEL].decode("ascii")
        self._channel.post(wire.OP_ARRAY_ADD, 0, wire.ArrayAdd(address, size, room, label).pack())

    def drop(self, address: int) -> None:
        """An array is no more."""
        if self._channel.usable:
            with contextlib.suppress(GpuDisaggError):  # then it is over
                self._channel.post(wire.OP_ARRAY_DROP, 0, wire.ArrayDrop(address).pack())

    def hold(self, block: Block) -> None:
        """The block of an array that is no more: kept back, the oldest ones given up."""
        self.drop(block.address)
        self._held.append(block)
        self.held += block.size
        self.give_up(self._most)

    def give_up(self, most: int = 0) -> bool:
        """Releases blocks until at most so many bytes are held; whether there were any."""
        some = self.held > most
        while self.held > most:
            block = self._held.popleft()
            self.held -= block.size
            self._release(block)
        return some
