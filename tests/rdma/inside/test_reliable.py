"""Reliable connections over soft-RoCE work as an endpoint needs them to: pyverbs alone, no code of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.rdma.inside.reliable import End

SUCCESS, REMOTE_ACCESS, RETRIES_EXCEEDED = 0, 10, 12


def test_a_message_and_its_reply(ends: tuple[End, End]) -> None:
    client, server = ends
    there, here = server.memory(4096), client.memory(4096)
    server.receive(there, 4096)
    client.receive(here, 4096)
    here.write(b"ping", 4, offset=2048)
    client.post("SEND", here, 4, offset=2048)
    assert client.completion().status == SUCCESS
    arrived = server.completion()
    assert (arrived.status, arrived.byte_len, there.read(4, 0)) == (SUCCESS, 4, b"ping")
    there.write(b"pong!", 5, offset=2048)
    server.post("SEND", there, 5, offset=2048)
    assert server.completion().status == SUCCESS
    arrived = client.completion()
    assert (arrived.status, arrived.byte_len, here.read(5, 0)) == (SUCCESS, 5, b"pong!")


def test_one_side_reads_and_writes_the_memory_of_the_other(ends: tuple[End, End]) -> None:
    worker, client = ends
    size = 1 << 20
    theirs, ours = client.memory(size), worker.memory(size)
    pattern = bytes(range(256)) * (size // 256)
    theirs.write(pattern, size)
    worker.post("RDMA_READ", ours, size, remote=(theirs.buf, theirs.rkey))
    assert worker.completion().status == SUCCESS
    assert ours.read(size, 0) == pattern
    ours.write(pattern[::-1], size)
    worker.post("RDMA_WRITE", ours, size, remote=(theirs.buf, theirs.rkey))
    assert worker.completion().status == SUCCESS
    assert theirs.read(size, 0) == pattern[::-1]


@pytest.mark.parametrize("operation", ["RDMA_READ", "RDMA_WRITE"])
@pytest.mark.parametrize("what", ["a wrong key", "past the end", "deregistered", "another domain's"])
def test_memory_that_was_not_given_is_refused(ends: tuple[End, End], operation: str, what: str) -> None:
    worker, client = ends
    ours, theirs = worker.memory(4096), client.memory(4096)
    address, key = theirs.buf, theirs.rkey
    if what == "a wrong key":
        key ^= 0x5A
    elif what == "past the end":
        address += 4096 - 32
    elif what == "deregistered":
        theirs.close()
    else:
        other = worker.memory(4096)
        address, key = other.buf, other.rkey
    worker.post(operation, ours, 64, remote=(address, key))
    assert worker.completion().status == REMOTE_ACCESS


def test_a_peer_that_is_gone_is_noticed(ends: tuple[End, End]) -> None:
    """Soft-RoCE never gives up where `retry_cnt` is 7, so an endpoint must ask for less."""
    worker, client = ends
    ours, theirs = worker.memory(4096), client.memory(4096)
    client.pair.close()
    worker.post("RDMA_WRITE", ours, 64, remote=(theirs.buf, theirs.rkey))
    assert worker.completion().status == RETRIES_EXCEEDED


def test_what_is_closed_is_given_back(
    verbs_context: Any, gid_index: int, rdma_objects: Callable[[], dict[str, int]]
) -> None:
    before = rdma_objects()
    end = End(verbs_context, gid_index)
    end.memory(4096)
    during = rdma_objects()
    assert {kind: during[kind] - before[kind] for kind in before} == {
        "pd": 1,
        "cq": 1,
        "qp": 1,
        "mr": 1,
        "ctx": 0,
    }
    end.close()
    assert rdma_objects() == before
