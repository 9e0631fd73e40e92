"""The ring against a deque: whatever is done to both, they agree; and a hostile peer's words are never
believed.
"""

from __future__ import annotations

import collections
import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from transport import wire

SLOT = wire.SLOT_SIZE
HEAD = 16
MIN_SLOTS = 2 * wire.MAX_MESSAGE // SLOT
# Around the borders of slots, and of the largest message.
sizes = st.one_of(
    st.integers(HEAD, 4 * SLOT),
    st.integers(1, wire.MAX_MESSAGE // SLOT).flatmap(
        lambda slots: st.integers(max(HEAD, slots * SLOT - 1), min(wire.MAX_MESSAGE, slots * SLOT + 1))
    ),
)


class Ring:
    """Both halves over memory of their own."""

    def __init__(self, module: Any, slots: int = MIN_SLOTS) -> None:
        self.ffi, self.lib = module.ffi, module.lib
        self.slots = slots
        # Slots are cache lines: aligned as the shared memory has them.
        self.memory = self.ffi.new("unsigned char[]", (slots + 1) * SLOT)
        base = int(self.ffi.cast("uintptr_t", self.memory))
        self.base = self.ffi.cast("gpud_slot *", (base + SLOT - 1) // SLOT * SLOT)
        self.bytes = self.ffi.cast("unsigned char *", self.base)
        self.credit = self.ffi.new("uint64_t *")
        self.producer = self.ffi.new("gpud_ring_producer *")
        self.consumer = self.ffi.new("gpud_ring_consumer *")
        self.lib.gpud_ring_producer_init(self.producer, self.base, slots, self.credit)
        self.lib.gpud_ring_consumer_init(self.consumer, self.base, slots, self.credit)
        self.into = self.ffi.new("unsigned char[]", wire.MAX_MESSAGE)

    def send(self, op: int, body: bytes) -> int:
        """0 or -errno."""
        rc = self.reserve(HEAD + len(body), body)
        if rc == 0:
            self.lib.gpud_ring_commit(self.producer, op, HEAD + len(body))
        return rc

    def reserve(self, size: int, body: bytes | None = None) -> int:
        message = self.ffi.new("void **")
        rc: int = self.lib.gpud_ring_reserve(self.producer, size, message)
        if rc == 0 and body is not None:
            self.ffi.memmove(self.ffi.cast("char *", message[0]) + HEAD, body, len(body))
        return rc

    def peek(self) -> bytes | int:
        """The message, or -errno."""
        rc: int = self.lib.gpud_ring_peek(self.consumer, self.into)
        return bytes(self.ffi.buffer(self.into, rc)) if rc > 0 else rc

    def release(self) -> None:
        self.lib.gpud_ring_release(self.consumer)


def op_and_body(message: bytes) -> tuple[int, bytes]:
    assert int.from_bytes(message[4:6], "little") == len(message)
    return message[6], message[HEAD:]


def slots_of(size: int) -> int:
    return -(-size // SLOT)


class RingAgainstDeque(RuleBasedStateMachine):
    """The model: a deque of messages, and how many slots the two sides account for."""

    module: Any

    def __init__(self) -> None:
        super().__init__()
        self.model: collections.deque[tuple[int, bytes]] = collections.deque()
        self.count = 0

    @initialize(slots=st.sampled_from([MIN_SLOTS, 2 * MIN_SLOTS]))
    def make(self, slots: int) -> None:
        self.ring = Ring(self.module, slots)

    def next_message(self, size: int) -> tuple[int, bytes]:
        self.count += 1
        # Old bytes must never pass for new ones: every message is unlike those before it.
        return self.count % 250 + 1, (self.count.to_bytes(8, "little") * (size // 8 + 1))[: size - HEAD]

    @rule(size=sizes)
    def send(self, size: int) -> None:
        op, body = self.next_message(size)
        rc = self.ring.send(op, body)
        if rc == 0:
            self.model.append((op, body))
            return
        assert rc == -errno.EAGAIN
        # It may only be full if the message, with padding before it, does not fit beside what is unread and
        # unreturned.
        unread = sum(slots_of(HEAD + len(body)) for _, body in self.model)
        returned = self.ring.slots // 8
        assert unread + returned + 2 * slots_of(size) + wire.MAX_MESSAGE // SLOT > self.ring.slots

    @rule(size=sizes)
    def reserve_and_give_up(self, size: int) -> None:
        assert self.ring.reserve(size, b"never seen"[: size - HEAD]) in (0, -errno.EAGAIN)

    @rule()
    def peek(self) -> None:
        """Peeking again gives the same again."""
        for _ in range(2):
            message = self.ring.peek()
            if not self.model:
                assert message == -errno.EAGAIN
            else:
                assert isinstance(message, bytes)
                assert op_and_body(message) == self.model[0]

    @precondition(lambda self: self.model)
    @rule(most=st.integers(1, 300))
    def receive(self, most: int) -> None:
        for _ in range(min(most, len(self.model))):
            message = self.ring.peek()
            assert isinstance(message, bytes)
            assert op_and_body(message) == self.model.popleft()
            self.ring.release()

    @rule()
    def drain(self) -> None:
        self.receive(len(self.model))
        assert self.ring.peek() == -errno.EAGAIN  # which also returns all credit
        biggest = self.next_message(wire.MAX_MESSAGE)
        assert self.ring.send(*biggest) == 0  # an empty ring takes any message
        self.model.append(biggest)

    @rule(size=st.one_of(st.integers(0, HEAD - 1), st.integers(wire.MAX_MESSAGE + 1, 2**32 - 1)))
    def no_message_has_such_a_size(self, size: int) -> None:
        assert self.ring.reserve(size) == -errno.EMSGSIZE

    @invariant()
    def ready_says_whether_peek_would_give_one(self) -> None:
        if not hasattr(self, "ring"):
            return
        ready = bool(self.ring.lib.gpud_ring_ready(self.ring.consumer))
        # A padding message alone makes it ready too: one look more, then.
        assert ready or not self.model


def test_the_ring_is_a_queue(ring: Any) -> None:
    machine = type("Machine", (RingAgainstDeque,), {"module": ring})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60))


def test_it_holds_its_order_over_many_laps(ring: Any) -> None:
    r = Ring(ring)
    for lap in range(200):
        for n in range(20):
            assert r.send(1 + n, bytes([lap % 256, n]) * (7 * n)) == 0
        for n in range(20):
            message = r.peek()
            assert isinstance(message, bytes)
            assert op_and_body(message) == (1 + n, bytes([lap % 256, n]) * (7 * n))
            r.release()


def test_what_a_continuation_slot_holds_is_never_taken_for_a_message(ring: Any) -> None:
    """A body may say anything, also what the head of a message of the next lap would say."""
    r = Ring(ring)
    for lap in range(8):
        forged = (lap + 2).to_bytes(4, "little") + (64).to_bytes(2, "little") + b"\x01\0" + bytes(56)
        body = bytes(48) + forged * 3
        while r.send(7, body) == 0:
            pass
        while isinstance(message := r.peek(), bytes):
            assert op_and_body(message) == (7, body)
            r.release()
        assert message == -errno.EAGAIN


# ---------------------------------------------------------------- a hostile peer


@given(credits=st.lists(st.one_of(st.integers(0, 600), st.integers(0, 2**64 - 1)), min_size=1, max_size=4))
def test_a_credit_is_believed_between_the_last_one_and_what_was_sent(ring: Any, credits: list[int]) -> None:
    r = Ring(ring)
    posted = released = 0
    for credit in credits:
        r.credit[0] = credit
        while (rc := r.send(1, b"")) == 0:
            posted += 1
        # The ring was filled up to the old credit before the producer looked at the new one.
        if rc == -errno.EPROTO:
            assert posted == released + r.slots
            assert not released <= credit <= posted
            return
        assert rc == -errno.EAGAIN
        assert released <= credit
        released = credit
        assert posted == released + r.slots


@given(slot=st.binary(min_size=SLOT, max_size=SLOT), tag=st.sampled_from([0, 1, 2]))
def test_any_slot_gives_a_message_within_the_ring_or_an_error(ring: Any, slot: bytes, tag: int) -> None:
    r = Ring(ring)
    ring.ffi.memmove(r.bytes, tag.to_bytes(4, "little") + slot[4:], SLOT)
    message = r.peek()
    if tag != 1:
        assert message == -errno.EAGAIN
    elif isinstance(message, bytes):
        assert HEAD <= len(message) <= wire.MAX_MESSAGE
        r.release()
    else:
        assert message in (-errno.EPROTO, -errno.EAGAIN)


@pytest.mark.parametrize("size", [0, 1, 15, wire.MAX_MESSAGE + 1, 65535])
def test_a_size_that_no_message_has_is_a_protocol_error(ring: Any, size: int) -> None:
    r = Ring(ring)
    head = (1).to_bytes(4, "little") + size.to_bytes(2, "little") + b"\x01\0"
    ring.ffi.memmove(r.bytes, head, len(head))
    assert r.peek() == -errno.EPROTO
