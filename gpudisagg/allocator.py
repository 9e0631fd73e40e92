"""Where things lie in the session's window of device addresses. The client decides; no message is needed to
decide.

`Window` hands out ranges of addresses. `Allocator` maps chunks in it and cuts them into blocks, as a caching
allocator does, so that after warm-up an allocation costs no message. Neither does any I/O: `map` and `unmap`
are the owner's.

Freed blocks are reused at once. That is safe on the stream that used them last, because a stream runs in
order; a block remembers which streams may still be using it, and whoever reuses it on another one must make
that one wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

from gpudisagg.errors import OutOfMemory
from gpudisagg.sizes import format_size

ALIGNMENT = 512  # as cudaMalloc's callers have come to expect, and enough for any vector load
# Small allocations share chunks: the first is small, for a fast start, the next as large as all before.
FIRST = 1 << 20
GROWTH = 32 << 20
NO_STREAMS: frozenset[int] = frozenset()


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


class Window:
    """Ranges of [base, base + size), multiples of `granularity`: memory is placed from below, regions from
    above.
    """

    def __init__(self, base: int, size: int, granularity: int) -> None:
        self.granularity = granularity
        self.gap = 0  # bytes to leave free behind each range
        self._start = round_up(base, granularity)
        self._end = (base + size) // granularity * granularity
        self._taken: list[tuple[int, int]] = []  # (begin, end), ascending

    def place(self, size: int, *, from_top: bool = False) -> int | None:
        """Takes the lowest (highest) free range of `size` bytes, rounded up. Its address, or None if there is
        none.
        """
        size = round_up(size + self.gap, self.granularity)
        begins = [self._start, *(end for _, end in self._taken)]
        ends = [*(begin for begin, _ in self._taken), self._end]
        gaps = list(zip(begins, ends, strict=True))
        for begin, end in reversed(gaps) if from_top else gaps:
            if end - begin >= size:
                address = end - size if from_top else begin
                insort(self._taken, (address, address + size))
                return address
        return None

    def give_back(self, address: int) -> None:
        """Frees the range that begins at `address`."""
        index = bisect_left(self._taken, (address, 0))
        if index == len(self._taken) or self._taken[index][0] != address:
            raise ValueError(f"nothing is placed at {address:#x}")
        del self._taken[index]


class Block:
    """A part of a chunk: in use, or free and then in the allocator's list.

    `streams`: those that may still be using its old content; empty where it was never used and hence still
    zeroed.
    """

    __slots__ = ("address", "before", "behind", "free", "size", "streams")

    def __init__(self, address: int, size: int, streams: frozenset[int]) -> None:
        self.address = address
        self.size = size
        self.streams = streams
        self.free = True
        self.before: Block | None = None  # its neighbours in the chunk
        self.behind: Block | None = None

    def is_chunk(self) -> bool:
        return self.before is None and self.behind is None


class Usage(NamedTuple):
    """Bytes: in blocks that are in use, in chunks that are mapped, the most that may be mapped, the largest
    free block.
    """

    used: int
    mapped: int
    limit: int
    largest_free: int


class Allocator:
    """Blocks of device memory within `limit` bytes.

    map(address, size): makes a chunk of zeroed memory there; unmap(address, size): takes it away. Not
    thread-safe.
    """

    def __init__(
        self,
        window: Window,
        limit: int,
        map: Callable[[int, int], object],
        unmap: Callable[[int, int], object],
    ) -> None:
        self._window = window
        self._limit = limit
        self._map = map
        self._unmap = unmap
        self._free: list[tuple[int, int]] = []  # (size, address), ascending: best fit is a bisection
        self._free_at: dict[int, Block] = {}
        self._mapped = 0
        self._used = 0

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes, aligned to ALIGNMENT. `size` > 0.

        OutOfMemory: it doesn't fit in what the session may have.
        """
        size = round_up(size, ALIGNMENT)
        block = self._take_free(size)
        if block is None:
            self._grow(size)
            block = self._take_free(size)
            assert block is not None
        self._split(block, size)
        block.free = False
        self._used += block.size
        return block

    def release(self, block: Block, streams: frozenset[int]) -> None:
        """Gives `block` back; `streams` (at least one) may still be using it."""
        if block.free:
            raise ValueError(f"the block at {block.address:#x} is free already")
        self._used -= block.size
        block.free = True
        block.streams = streams
        if block.behind is not None and block.behind.free:
            self._forget_free(block.behind)
            self._merge(block, block.behind)
        before = block.before
        if before is not None and before.free:
            self._forget_free(before)
            self._merge(before, block)
            block = before
        self._list_free(block)

    def trim(self) -> int:
        """Unmaps every chunk that is wholly free. Bytes given back."""
        chunks = [block for block in self._free_at.values() if block.is_chunk()]
        for chunk in chunks:
            self._forget_free(chunk)
            self._unmap(chunk.address, chunk.size)
            self._window.give_back(chunk.address)
            self._mapped -= chunk.size
        return sum(chunk.size for chunk in chunks)

    def usage(self) -> Usage:
        largest = self._free[-1][0] if self._free else 0
        return Usage(self._used, self._mapped, self._limit, max(largest, self._limit - self._mapped))

    def _take_free(self, size: int) -> Block | None:
        index = bisect_left(self._free, (size, 0))
        if index == len(self._free):
            return None
        _, address = self._free.pop(index)
        return self._free_at.pop(address)

    def _list_free(self, block: Block) -> None:
        insort(self._free, (block.size, block.address))
        self._free_at[block.address] = block

    def _forget_free(self, block: Block) -> None:
        del self._free[bisect_left(self._free, (block.size, block.address))]
        del self._free_at[block.address]

    def _split(self, block: Block, size: int) -> None:
        if block.size == size:
            return
        rest = Block(block.address + size, block.size - size, block.streams)
        rest.before, rest.behind, block.behind = block, block.behind, rest
        if rest.behind is not None:
            rest.behind.before = rest
        block.size = size
        self._list_free(rest)

    @staticmethod
    def _merge(block: Block, behind: Block) -> None:
        block.size += behind.size
        # Half zeroed is not zeroed: a stream stands for use even where the other part was never touched.
        block.streams |= behind.streams
        block.behind = behind.behind
        if block.behind is not None:
            block.behind.before = block

    def _grow(self, size: int) -> None:
        granularity = self._window.granularity
        need = round_up(size, granularity)
        if need > self._limit - self._mapped:
            # A chunk nobody uses may stand in the way; unmapping is in order, so what still runs on it is not
            # disturbed.
            self.trim()
        room = (self._limit - self._mapped) // granularity * granularity
        if need > room:
            raise self._out_of_memory(size)
        want = min(max(need, round_up(min(max(self._mapped, FIRST), GROWTH), granularity)), room)
        address = self._window.place(want)
        if address is None:
            want = need
            address = self._window.place(want)
        if address is None:
            raise OutOfMemory(
                f"no {format_size(want)} of consecutive addresses are left in the session's window; "
                "drop host arrays or arrays that are no longer needed"
            )
        try:
            self._map(address, want)
        except BaseException:
            self._window.give_back(address)
            raise
        self._mapped += want
        self._list_free(Block(address, want, NO_STREAMS))

    def _out_of_memory(self, size: int) -> OutOfMemory:
        usage = self.usage()
        return OutOfMemory(
            f"{format_size(size)} asked ({size} bytes), {format_size(usage.used)} of "
            f"{format_size(usage.limit)} used, largest free block {format_size(usage.largest_free)}; drop "
            "arrays that are no longer needed, or "
            "connect(memory=...) with more"
        )
