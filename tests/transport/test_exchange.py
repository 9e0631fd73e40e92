"""Prepared round trips: one crossing for a request and its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import transport
from transport import Closed, Connection, DeadlineExceeded, PeerGone, ProtocolError, wire


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    client, worker = transport.loop(timeout=30.0)
    with client, worker:
        yield client, worker


class Answering:
    """A thread that answers every message with itself, its bytes in reverse."""

    def __init__(self, worker: Connection) -> None:
        self.worker = worker
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while data := self.worker.recv(60):
            self.worker.send(data[::-1])

    def __enter__(self) -> Answering:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.thread.join(60)


@pytest.mark.parametrize("size", [1, 8, 48, 49, 112, 4096, 8176])
def test_the_answer_to_each_request_is_in_reply(ends: tuple[Connection, Connection], size: int) -> None:
    client, worker = ends
    with Answering(worker):
        exchange = client.exchange(size)
        for turn in range(100):
            exchange.request[:] = bytes((turn + i) % 251 for i in range(size))
            assert exchange.run() == size
            assert exchange.reply[:size].tobytes() == exchange.request.tobytes()[::-1]
        client.send(b"")


def test_a_request_larger_than_a_message_is_refused(ends: tuple[Connection, Connection]) -> None:
    with pytest.raises(ValueError, match="8176"):
        ends[0].exchange(8177)


def test_an_answer_that_comes_late_is_still_to_be_received(ends: tuple[Connection, Connection]) -> None:
    client, worker = ends
    client.timeout = 0.0
    exchange = client.exchange(3)
    exchange.request[:] = b"abc"
    with pytest.raises(DeadlineExceeded):
        exchange.run()
    assert worker.recv(30) == b"abc"
    worker.send(b"late")
    assert client.recv(30) == b"late"


def test_another_message_in_place_of_the_answer_is_an_error(ends: tuple[Connection, Connection]) -> None:
    client, worker = ends
    worker.post(wire.OP_BYE, 0, wire.Bye(wire.STATUS_SHUTDOWN, "going").pack())
    with pytest.raises(ProtocolError):
        client.exchange(1).run()


def test_when_the_peer_is_gone_run_says_so(ends: tuple[Connection, Connection]) -> None:
    client, worker = ends
    exchange = client.exchange(1)
    worker.close()
    with pytest.raises(PeerGone):
        exchange.run()


def test_after_the_connection_is_closed_run_says_so_and_holds_it_no_longer() -> None:
    client, worker = transport.loop(timeout=30.0)
    with worker:
        exchange = client.exchange(1)
        client.close()
        with pytest.raises(Closed):
            exchange.run()
        assert not worker.alive  # hung up, although the exchange is still here
