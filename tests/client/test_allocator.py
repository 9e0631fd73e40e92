"""The allocator: blocks never overlap, chunks stay within the limit, and reuse costs no message."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpudisagg.allocator import ALIGNMENT, GROWTH, NO_STREAMS, Allocator, Block, Window
from gpudisagg.errors import OutOfMemory

BASE = 1 << 40
GRANULARITY = 64 << 10
DEFAULT = frozenset({0})


class Mapping:
    """What a worker would have mapped; refuses what a worker would refuse."""

    def __init__(self) -> None:
        self.chunks: dict[int, int] = {}
        self.messages = 0

    def map(self, address: int, size: int) -> None:
        assert address % GRANULARITY == 0 and size % GRANULARITY == 0 and size > 0
        assert all(address + size <= a or a + s <= address for a, s in self.chunks.items())
        self.chunks[address] = size
        self.messages += 1

    def unmap(self, address: int, size: int) -> None:
        assert self.chunks.pop(address) == size
        self.messages += 1


def make(limit: int = 256 << 20, window: int = 1 << 40) -> tuple[Allocator, Mapping]:
    mapping = Mapping()
    return Allocator(Window(BASE, window, GRANULARITY), limit, mapping.map, mapping.unmap), mapping


class Machine(RuleBasedStateMachine):
    limit = 96 << 20

    def __init__(self) -> None:
        super().__init__()
        self.allocator, self.mapping = make(self.limit)
        self.blocks: list[tuple[Block, int]] = []

    @rule(size=st.one_of(st.integers(1, 5000), st.integers(1, 40 << 20)))
    def allocate(self, size: int) -> None:
        mapped = sum(self.mapping.chunks.values())
        try:
            block = self.allocator.allocate(size)
        except OutOfMemory:
            # Refused only if mapping that much more would break the limit, whatever was kept mapped.
            in_use = {
                a
                for b, _ in self.blocks
                for a in self.mapping.chunks
                if a <= b.address < a + self.mapping.chunks[a]
            }
            held = sum(self.mapping.chunks[a] for a in in_use)
            assert held + -(-size // GRANULARITY) * GRANULARITY > self.limit
            assert mapped >= held
            return
        assert block.address % ALIGNMENT == 0
        assert size <= block.size < size + ALIGNMENT
        self.blocks.append((block, size))

    @precondition(lambda self: self.blocks)
    @rule(data=st.data(), streams=st.frozensets(st.integers(0, 3), min_size=1))
    def release(self, data: st.DataObject, streams: frozenset[int]) -> None:
        block, _ = self.blocks.pop(data.draw(st.integers(0, len(self.blocks) - 1)))
        self.allocator.release(block, streams)

    @rule()
    def trim(self) -> None:
        before = sum(self.mapping.chunks.values())
        freed = self.allocator.trim()
        assert before - freed == sum(self.mapping.chunks.values())
        if not self.blocks:
            assert not self.mapping.chunks

    @invariant()
    def blocks_lie_apart_and_in_mapped_memory(self) -> None:
        spans = sorted((b.address, b.address + b.size) for b, _ in self.blocks)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
        for begin, end in spans:
            assert any(a <= begin and end <= a + s for a, s in self.mapping.chunks.items())

    @invariant()
    def accounts_balance(self) -> None:
        usage = self.allocator.usage()
        assert usage.used == sum(b.size for b, _ in self.blocks)
        assert usage.mapped == sum(self.mapping.chunks.values()) <= self.limit == usage.limit


TestAllocatorStates = Machine.TestCase
TestAllocatorStates.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_allocating_again_after_warm_up_posts_nothing() -> None:
    allocator, mapping = make()
    allocator.release(allocator.allocate(1 << 20), DEFAULT)
    warm = mapping.messages
    for _ in range(1000):
        allocator.release(allocator.allocate(1 << 20), DEFAULT)
    assert mapping.messages == warm


def test_small_blocks_share_a_chunk() -> None:
    allocator, mapping = make()
    for _ in range(100):
        allocator.allocate(1000)
    assert len(mapping.chunks) == 1


def test_chunks_grow_with_what_is_used_up_to_a_limit() -> None:
    allocator, mapping = make()
    for _ in range(200):
        allocator.allocate(1 << 20)
    sizes = list(mapping.chunks.values())
    assert sizes == sorted(sizes)
    assert len(sizes) <= 12
    assert sizes[-1] == GROWTH


def test_a_chunk_shrinks_to_what_the_limit_leaves() -> None:
    allocator, mapping = make(limit=GRANULARITY * 3)
    allocator.allocate(1)
    assert list(mapping.chunks.values()) == [GRANULARITY * 3]


def test_the_whole_limit_can_be_had_in_one_piece_again() -> None:
    allocator, _ = make(limit=128 << 20)
    small = [allocator.allocate(1 << 20) for _ in range(100)]
    for block in small:
        allocator.release(block, DEFAULT)
    assert allocator.allocate(128 << 20).size == 128 << 20


def test_out_of_memory_says_what_was_asked_used_allowed_and_what_to_do() -> None:
    allocator, _ = make(limit=64 << 20)
    allocator.allocate(48 << 20)
    with pytest.raises(
        OutOfMemory, match=r"20 MiB asked .* 48 MiB of 64 MiB used.*largest free block 16 MiB.*drop arrays"
    ):
        allocator.allocate(20 << 20)
    allocator.allocate(16 << 20)


def test_memory_never_used_is_known_to_be_zeroed_and_used_memory_is_not() -> None:
    allocator, _ = make()
    first = allocator.allocate(1 << 20)
    assert first.streams == NO_STREAMS
    address = first.address
    allocator.release(first, frozenset({2}))
    again = allocator.allocate(1 << 20)
    assert again.address == address
    assert again.streams == {2}


def test_merging_keeps_every_stream_that_may_still_be_at_work() -> None:
    allocator, _ = make()
    allocator.release(allocator.allocate(3 << 20), frozenset({0}))
    blocks = [allocator.allocate(1 << 20) for _ in range(3)]
    for stream, block in enumerate(blocks):
        allocator.release(block, frozenset({stream}))
    assert allocator.allocate(3 << 20).streams == {0, 1, 2}


def test_releasing_twice_is_refused() -> None:
    allocator, _ = make()
    block = allocator.allocate(1)
    allocator.release(block, DEFAULT)
    with pytest.raises(ValueError, match="free already"):
        allocator.release(block, DEFAULT)


def test_a_chunk_that_could_not_be_mapped_leaves_no_trace() -> None:
    window = Window(BASE, 1 << 30, GRANULARITY)

    def refuse(address: int, size: int) -> None:
        raise RuntimeError("connection gone")

    allocator = Allocator(window, 1 << 30, refuse, refuse)
    with pytest.raises(RuntimeError):
        allocator.allocate(1)
    assert allocator.usage().mapped == 0
    assert window.place(1 << 30) == BASE


def test_memory_grows_from_below_and_regions_from_above() -> None:
    window = Window(BASE, 1 << 30, GRANULARITY)
    low = window.place(1)
    high = window.place(1, from_top=True)
    assert low == BASE
    assert high == BASE + (1 << 30) - GRANULARITY
    assert window.place(1 << 30) is None
    window.give_back(BASE)
    assert window.place(1) == BASE
    with pytest.raises(ValueError, match="nothing is placed"):
        window.give_back(BASE + GRANULARITY)


def test_a_window_smaller_than_the_limit_says_so() -> None:
    allocator, _ = make(limit=1 << 30, window=GRANULARITY * 4)
    allocator.allocate(GRANULARITY * 4)
    with pytest.raises(OutOfMemory, match="consecutive addresses"):
        allocator.allocate(1)
