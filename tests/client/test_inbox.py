"""Replies reach those who asked, in any interleaving; a fault or a goodbye reaches everybody."""

from __future__ import annotations

import queue
import threading

import pytest

from gpudisagg.inbox import Inbox, Reply
from transport import wire
from transport.errors import DeadlineExceeded, PeerGone, ProtocolError

KERNEL = wire.KernelInfo(7, 0, 8, 0, 1024, (wire.Param(0, 8),), "f")
LOADED = wire.ModuleStatus(7, wire.STATUS_OK, 1, 0)
FAULT = wire.Fault(3, wire.STATUS_DEVICE_FAULT, wire.OP_LAUNCH, 64, 7, 0, (1, 0, 0), 5, "wild")


class Wire:
    """A connection's receiving end that says what the test says."""

    def __init__(self, *messages: tuple[int, wire.Body]) -> None:
        self.queue: queue.Queue[bytes | Exception] = queue.Queue()
        self.readers = 0
        for message in messages:
            self.say(*message)

    def say(self, op: int, body: wire.Body) -> None:
        assert body is not None
        self.queue.put(wire.encode(op, 0, 1, body.pack()))

    def receive(self, timeout: float) -> bytes:
        self.readers += 1
        assert self.readers == 1, "one reader at a time"
        try:
            message = self.queue.get(timeout=timeout) if timeout else self.queue.get_nowait()
        except queue.Empty:
            raise DeadlineExceeded("nothing there") from None
        finally:
            self.readers -= 1
        if isinstance(message, Exception):
            raise message
        return message


def collecting(inbox: Inbox, reply: Reply) -> tuple[threading.Thread, list[bool]]:
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(inbox.collect(reply, 30)))
    thread.start()
    return thread, results


def test_an_answer_is_whole_when_its_last_part_has_come() -> None:
    inbox = Inbox(Wire((wire.OP_KERNEL_INFO, KERNEL), (wire.OP_MODULE_STATUS, LOADED)).receive)
    reply = inbox.expect(wire.OP_MODULE_STATUS, 7)
    assert inbox.collect(reply, 30)
    assert reply.parts == [KERNEL, LOADED]


def test_answers_about_the_same_thing_go_to_askers_in_the_order_of_asking() -> None:
    times = [wire.EventTime(4, 0, ns) for ns in (10, 20)]
    inbox = Inbox(Wire(*((wire.OP_EVENT_TIME, t) for t in times)).receive)
    first, second = inbox.expect(wire.OP_EVENT_TIME, 4), inbox.expect(wire.OP_EVENT_TIME, 4)
    assert inbox.collect(second, 30)
    assert inbox.collect(first, 30)
    assert (first.parts, second.parts) == ([times[0]], [times[1]])


def test_who_reads_hands_others_theirs() -> None:
    peer = Wire()
    inbox = Inbox(peer.receive)
    replies = {number: inbox.expect(wire.OP_EVENT_TIME, number) for number in range(8)}
    waiting = [collecting(inbox, reply) for reply in replies.values()]
    for number in reversed(range(8)):
        peer.say(wire.OP_EVENT_TIME, wire.EventTime(number, 0, number))
    for thread, results in waiting:
        thread.join(30)
        assert results == [True]
    assert [reply.parts[0].nanoseconds for reply in replies.values()] == list(range(8))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("op", "body"), [(wire.OP_FAULT, FAULT), (wire.OP_BYE, wire.Bye(wire.STATUS_SHUTDOWN, "going away"))]
)
def test_a_fault_or_a_goodbye_ends_every_wait(op: int, body: wire.Body) -> None:
    peer = Wire()
    inbox = Inbox(peer.receive)
    waiting = [collecting(inbox, inbox.expect(wire.OP_EVENT_TIME, number)) for number in range(4)]
    peer.say(op, body)
    for thread, results in waiting:
        thread.join(30)
        assert results == [False]
    assert body in (inbox.fault, inbox.bye)
    assert not inbox.collect(None, 0)


def test_only_the_first_fault_counts() -> None:
    later = FAULT._replace(sequence=9)
    inbox = Inbox(Wire((wire.OP_FAULT, FAULT), (wire.OP_FAULT, later)).receive)
    with pytest.raises(DeadlineExceeded):
        inbox.drain()
    assert inbox.fault == FAULT


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one() -> None:
    peer = Wire()
    inbox = Inbox(peer.receive)
    with pytest.raises(DeadlineExceeded):
        inbox.collect(inbox.expect(wire.OP_EVENT_TIME, 4), 0)
    again = inbox.expect(wire.OP_EVENT_TIME, 4)
    for ns in (10, 20):
        peer.say(wire.OP_EVENT_TIME, wire.EventTime(4, 0, ns))
    assert inbox.collect(again, 30)
    assert again.parts == [wire.EventTime(4, 0, 20)]


def test_an_expectation_can_be_withdrawn() -> None:
    inbox = Inbox(Wire((wire.OP_EVENT_TIME, wire.EventTime(4, 0, 10))).receive)
    inbox.withdraw(wire.OP_EVENT_TIME, 4, inbox.expect(wire.OP_EVENT_TIME, 4))
    reply = inbox.expect(wire.OP_EVENT_TIME, 4)
    assert inbox.collect(reply, 30)


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (wire.OP_EVENT_TIME, wire.EventTime(4, 0, 1)),
        (wire.OP_MODULE_STATUS, LOADED),
        (wire.OP_KERNEL_INFO, KERNEL),
    ],
)
def test_an_answer_to_nothing_is_a_protocol_error(op: int, body: wire.Body) -> None:
    inbox = Inbox(Wire((op, body)).receive)
    with pytest.raises(ProtocolError, match="nobody asked"):
        inbox.collect(inbox.expect(wire.OP_EVENT_TIME, 99), 30)


def test_a_peer_that_dies_is_noticed_by_the_reader_and_then_by_the_next() -> None:
    peer = Wire()
    inbox = Inbox(peer.receive)
    for _ in range(2):
        peer.queue.put(PeerGone("gone"))
        with pytest.raises(PeerGone):
            inbox.collect(inbox.expect(wire.OP_EVENT_TIME, 1), 30)


@pytest.mark.parametrize("wait", [0.0, 0.01])
def test_no_wait_outlasts_its_deadline(wait: float) -> None:
    inbox = Inbox(Wire().receive)
    with pytest.raises(DeadlineExceeded):
        inbox.collect(inbox.expect(wire.OP_EVENT_TIME, 1), wait)
