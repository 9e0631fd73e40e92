"""docs/protocol.md is enough to write a client from: one that has pyverbs and no code of ours runs sessions
over a queue pair, and a worker reaches what such a client gave it and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rdma.inside.queue_pair import RECEIVES, QueuePair
from tests.rdma.inside.serving import serving
from tests.transport import independent as page
from tests.transport.independent import COPY_IN, COPY_OUT

COUNT = 4096
SIZE = 4 * COUNT
Connect = Callable[[], QueuePair]
pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow


@pytest.fixture(scope="module")
def port(rdma_address: str) -> Iterator[int]:
    """A server's."""
    with serving(f"rdma://{rdma_address}:0") as (where,):
        yield int(where.rpartition(":")[2])


@pytest.fixture
def connect(verbs_context: Any, gid_index: int, rdma_address: str, port: int) -> Connect:
    return lambda: QueuePair(verbs_context, gid_index, rdma_address, port)


@pytest.fixture
def client(connect: Connect) -> Iterator[QueuePair]:
    with connect() as made:
        yield made


def mapped(client: QueuePair) -> int:
    """An address with memory at it."""
    client.wait(client.map(client.welcome.window_base, client.welcome.granularity))
    assert not client.faulted
    return client.welcome.window_base


def run_scale(client: QueuePair) -> None:
    """Uploads, launches, downloads."""
    address = mapped(client)
    up, down, code = (client.end.memory(SIZE) for _ in range(3))
    up.write(page.numbers(COUNT), SIZE)
    client.offer(0, up, SIZE, page.READ)
    client.offer(1, down, SIZE, page.WRITE)
    client.offer(2, code, SIZE, page.READ)
    client.copy(COPY_IN, address, 0, 0, SIZE)
    (kernel,) = client.load_image(1, page.PTX, 2, code)
    assert kernel.name == "scale"
    client.launch(kernel, COUNT // 256, 256, page.scale_params(address, 7))
    client.wait(client.copy(COPY_OUT, address, 1, 0, SIZE))
    assert not client.faulted
    assert down.read(SIZE, 0) == page.scaled(COUNT, 7)
    for number in range(3):
        client.drop_region(number)
    client.wait(client.posted)
    assert not client.faulted
    for memory in up, down, code:
        memory.close()


def the_next_is_served(connect: Connect) -> None:
    """By the same worker, or by another that took its place."""
    with connect() as client:
        run_scale(client)
        client.finish()


def until_hung_up(client: QueuePair) -> None:
    with pytest.raises(page.Gone):
        client.until(lambda: False)


def test_a_session_from_hello_to_close(client: QueuePair) -> None:
    run_scale(client)
    client.finish()
    assert not client.faulted and not client.replies
    assert client.way is not None and client.way[0] == 1 and client.way[1]  # the cpu device's is host memory


def test_more_messages_than_either_side_has_receives(client: QueuePair) -> None:
    """So credit is returned in both directions, and nobody waits for ever."""
    memory = client.end.memory(SIZE)
    address = mapped(client)
    client.offer(0, memory, SIZE)
    for round in range(3 * RECEIVES):
        for place in range(4):
            memory.write(struct.pack("<I", 4 * round + place), 4, 4 * place)
            client.copy(COPY_IN, address + 4 * place, 0, 4 * place, 4)
        client.copy(COPY_OUT, address, 0, 1024, 16)
        client.wait(client.posted)
        assert memory.read(16, 1024) == struct.pack("<4I", *range(4 * round, 4 * round + 4))
    assert client.spent > 2 * client.peer_receives
    assert client.credits_returned > 0
    client.finish()


def test_replies_that_are_not_taken_wait_for_credit(client: QueuePair) -> None:
    """A reply to each of many more commands than this side has receives."""
    many = 4 * RECEIVES
    for event in range(many):
        client.post(page.EVENT_QUERY, struct.pack("<II", event, 0))
    for event in range(many):
        body = client.reply(page.EVENT_TIME)
        assert struct.unpack("<IIQ", body) == (event, page.NOT_FOUND, 0)
    assert not client.faulted
    client.finish()


@pytest.mark.parametrize("op", [COPY_IN, COPY_OUT], ids=["COPY_IN", "COPY_OUT"])
def test_past_a_regions_end_is_a_fault(client: QueuePair, connect: Connect, op: int) -> None:
    """The worker knows the size: the adapter is not asked, and the session still ends in order."""
    address = mapped(client)
    memory = client.end.memory(2 * page.PAGE)
    client.offer(0, memory, page.PAGE)
    failed = client.copy(op, address, 0, page.PAGE - 32, 64)
    later = client.copy(COPY_IN, address, 0, 0, 4)
    client.until(lambda: client.completed >= later)
    fault = client.fault()
    assert client.faulted and (fault.sequence, fault.status, fault.op) == (failed, page.INVALID, op)
    assert "region 0" in fault.reason
    client.finish()
    client.close()
    the_next_is_served(connect)


def wrong_key(client: QueuePair) -> None:
    client.offer(0, client.end.memory(SIZE), SIZE, wrong=0x5A)


def deregistered(client: QueuePair) -> None:
    memory = client.end.memory(SIZE)
    client.offer(0, memory, SIZE)
    client.wait(client.posted)
    memory.close()


def shorter_than_it_said(client: QueuePair) -> None:
    client.offer(0, client.end.memory(page.PAGE), SIZE)


def not_for_writing(client: QueuePair) -> None:
    client.offer(0, client.end.memory(SIZE, remote_write=False), SIZE)


@pytest.mark.parametrize(
    ("op", "given"),
    [
        *(
            (op, given)
            for op in (COPY_IN, COPY_OUT)
            for given in (wrong_key, deregistered, shorter_than_it_said)
        ),
        (COPY_OUT, not_for_writing),
    ],
    ids=lambda value: getattr(value, "__name__", {COPY_IN: "COPY_IN", COPY_OUT: "COPY_OUT"}.get(value)),
)
def test_what_the_adapter_refuses_ends_the_session(
    client: QueuePair, connect: Connect, op: int, given: Callable[[QueuePair], None]
) -> None:
    """And that one only: whoever comes next is served."""
    address = mapped(client)
    given(client)
    client.wait(client.posted)
    assert not client.faulted
    before = client.completed
    failed = client.copy(op, address, 0, 0, SIZE)
    until_hung_up(client)
    assert client.completed == before < failed  # what failed was never said to be complete
    client.close()
    the_next_is_served(connect)


def test_a_region_that_was_dropped_is_not_found(client: QueuePair) -> None:
    address = mapped(client)
    memory = client.end.memory(SIZE)
    client.offer(3, memory, SIZE)
    client.drop_region(3)
    failed = client.copy(COPY_OUT, address, 3, 0, 64)
    client.wait(failed)
    fault = client.fault()
    assert (fault.sequence, fault.status, fault.op) == (failed, page.NOT_FOUND, COPY_OUT)


def test_an_add_without_its_key_ends_the_session(client: QueuePair, connect: Connect) -> None:
    client.add_region(0, SIZE)
    until_hung_up(client)
    client.close()
    the_next_is_served(connect)


def test_the_workers_memory_is_not_to_be_reached(client: QueuePair, connect: Connect) -> None:
    """Its queue pair allows nothing from outside, whatever key one tries."""
    address = mapped(client)
    here = client.end.memory(page.PAGE)
    client.end.post("RDMA_READ", here, 64, remote=(address, here.rkey), id=1)
    with pytest.raises(page.Gone):
        client.until(lambda: False)
    client.close()
    the_next_is_served(connect)


def test_more_credit_than_was_spent_ends_the_session(client: QueuePair, connect: Connect) -> None:
    client.link(page.CREDIT, struct.pack("<II", 60_000, 0), 0)
    until_hung_up(client)
    client.close()
    the_next_is_served(connect)


def test_what_a_session_used_is_given_back(
    connect: Connect, rdma_objects: Callable[[], dict[str, int]]
) -> None:
    """The worker's adapter holds nothing of a session that is over: a pair, a domain, keys."""
    the_next_is_served(connect)
    with connect() as client:
        client.finish()
    with connect() as client:  # so the worker is done with the one before
        during = rdma_objects()
    with connect() as client:
        assert rdma_objects() == during
