"""The ring: two threads under the sanitizers, and step by step against a deque."""

from __future__ import annotations

import errno
import struct
from collections import deque
from pathlib import Path

import pytest
import sanitized
from driver import Driver
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

RING = [path for path in sanitized.TRANSPORT if path.name in ("ring.c", "wait.c")]
SLOT, HEAD, MAX_MESSAGE = 64, 16, 8192
LEAST_SLOTS = 2 * MAX_MESSAGE // SLOT


@pytest.fixture(scope="module", params=["thread", "address"])
def stress(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("ring_stress", request.param, RING, tmp_path_factory.mktemp("ring"))


@pytest.mark.parametrize("slots", [LEAST_SLOTS, 1024])
def test_every_message_arrives_whole_and_in_order_between_two_threads(stress: Path, slots: int) -> None:
    sanitized.run(stress, str(slots), "30000", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("ring_model", "address", RING, tmp_path_factory.mktemp("ring"))


def slots_of(size: int) -> int:
    return -(-size // SLOT)


class RingAgainstDeque(RuleBasedStateMachine):
    """A ring gives what was put, in order; it refuses only what has no room, until there is credit."""

    binary: Path

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self.binary)
        self.waiting: deque[tuple[int, int]] = deque()  # (index, size) of what was put and not yet got
        self.indices = 0

    @initialize(slots=st.sampled_from([LEAST_SLOTS, 512]))
    def start(self, slots: int) -> None:
        self.slots = slots
        assert self.driver.ask(b"n" + struct.pack("<I", slots)) == 0

    def put_one(self, size: int) -> int:
        answer = self.driver.ask(b"p" + struct.pack("<IQ", size, self.indices))
        if answer == 0:
            self.waiting.append((self.indices, size))
            self.indices += 1
        return answer

    @rule(size=st.integers(HEAD, MAX_MESSAGE) | st.integers(HEAD, 2 * SLOT))
    def put(self, size: int) -> None:
        if self.put_one(size) != 0:
            # Full: what waits, the padding that it or this one may need, and the credit not yet published.
            used = sum(slots_of(waits) for _, waits in self.waiting)
            padding = 2 * (MAX_MESSAGE // SLOT - 1)
            assert used + slots_of(size) + padding + self.slots // 8 > self.slots

    @rule(size=st.integers(0, HEAD - 1) | st.integers(MAX_MESSAGE + 1, 2**32 - 1))
    def no_message_has_this_size(self, size: int) -> None:
        assert self.put_one(size) == -errno.EMSGSIZE

    @rule(size=st.integers(HEAD, MAX_MESSAGE))
    def give_up_a_reservation(self, size: int) -> None:
        assert self.driver.ask(b"r" + struct.pack("<I", size)) in (0, -errno.EAGAIN)

    @precondition(lambda self: self.waiting)
    @rule()
    def get(self) -> None:
        index, size = self.waiting.popleft()
        assert self.driver.ask(b"g" + struct.pack("<Q", index)) == size

    @precondition(lambda self: not self.waiting)
    @rule(size=st.integers(HEAD, MAX_MESSAGE))
    def an_empty_ring_has_room_for_anything(self, size: int) -> None:
        assert self.driver.ask(b"g" + struct.pack("<Q", 0)) == -errno.EAGAIN
        assert self.put_one(size) == 0

    @rule()
    def publish_credit(self) -> None:
        assert self.driver.ask(b"c") == 0

    @rule()
    def fill_and_drain(self) -> None:
        while self.put_one(self.indices * 37 % 300 + HEAD) == 0:
            pass
        while self.waiting:
            self.get()

    @invariant()
    def holds_no_more_than_its_slots(self) -> None:
        assert sum(slots_of(size) for _, size in self.waiting) <= getattr(self, "slots", 0)

    def teardown(self) -> None:
        self.driver.close()


def test_a_ring_is_a_deque_with_credit(model: Path) -> None:
    machine = type("Machine", (RingAgainstDeque,), {"binary": model})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40))
