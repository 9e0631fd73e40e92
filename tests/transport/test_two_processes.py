"""The transport alone, between real processes: no device anywhere, and either side may die at any moment."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import transport
from tests.conftest import ROOT
from tests.transport.conftest import Endpoint
from transport import DeadlineExceeded, PeerGone

Start = Callable[..., Any]


def listening(server: Any) -> str:
    """Where a process that listens does so."""
    said: str = server.line()
    assert said.startswith("listening ")
    return said.removeprefix("listening ")


def test_an_echo_between_two_processes(process: Start, remote: Endpoint) -> None:
    server = process("listen", remote.listens_at, "echo")
    with transport.connect(listening(server), timeout=60) as connection:
        assert connection.transport == remote.name
        for n in range(2000):
            data = n.to_bytes(4, "little") * (n % 500)
            connection.send(data)
            assert connection.recv(60) == data
    assert server.line() == "accepted"
    assert server.line() == "gone"
    assert server.end() == 0


def test_bytes_through_a_region_between_two_processes(process: Start, reaching: Endpoint) -> None:
    with reaching.listen() as listener:
        client = process("remember", str(listener.address))
        with listener.accept(60) as connection:
            number = int.from_bytes(connection.recv(60), "little")
            seen = np.zeros(1 << 16, dtype=np.uint8)
            connection.read(number, 0, seen)
            assert np.array_equal(seen, np.arange(1 << 16).astype(np.uint8))
            connection.write(number, 0, np.full(1 << 16, 3, dtype=np.uint8))
            connection.send(b"done")
            assert client.line() == str(3 << 16)
            assert client.end() == 0


def test_a_client_killed_in_the_middle_of_sending(process: Start, remote: Endpoint) -> None:
    with remote.listen() as listener:
        client = process("flood", str(listener.address))
        with listener.accept(60) as connection:
            for n in range(10_000):
                assert connection.recv(60) == n.to_bytes(8, "little") * (n % 40 + 1)
            client.kill()
            received = connection.received
            with pytest.raises(PeerGone):
                for n in range(received, received + 10_000_000):
                    # All that was sent before it died is whole and in order.
                    assert connection.recv(60) == n.to_bytes(8, "little") * (n % 40 + 1)
            assert not connection.alive


def test_a_killed_client_ends_a_wait_for_its_next_message(process: Start, remote: Endpoint) -> None:
    with remote.listen() as listener:
        client = process("idle", str(listener.address))
        with listener.accept(60) as connection, concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert connection.recv(60) == b"here"
            waiting = pool.submit(connection.recv, 60)
            client.kill()
            with pytest.raises(PeerGone):
                waiting.result(60)


@pytest.mark.parametrize("waits_in", ["receive", "wait", "post", "region"])
def test_a_killed_server_ends_every_wait_of_its_client(
    process: Start, remote: Endpoint, waits_in: str
) -> None:
    server = process("listen", remote.listens_at, "deaf")
    with (
        transport.connect(listening(server), timeout=60) as connection,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert server.line() == "accepted"
        sequence = connection.send(b"never read")

        def until_the_ring_is_full() -> None:
            while True:
                connection.send(bytes(4000))

        def until_the_socket_is_full() -> None:
            while True:
                connection.create_region(4096).drop()

        calls: dict[str, Callable[[], object]] = {
            "receive": lambda: connection.receive(60),
            "wait": lambda: connection.wait(sequence, 60),
            "post": until_the_ring_is_full,
            "region": until_the_socket_is_full,
        }
        entered = threading.Event()
        waiting = pool.submit(lambda: (entered.set(), calls[waits_in]()))
        entered.wait()
        server.kill()
        with pytest.raises(PeerGone):
            waiting.result(60)


def test_a_frozen_peer_is_alive_and_deadlines_hold(process: Start, remote: Endpoint) -> None:
    server = process("listen", remote.listens_at, "echo")
    with transport.connect(listening(server), timeout=60) as connection:
        assert server.line() == "accepted"
        server.signal(signal.SIGSTOP)
        connection.send(b"hello?")
        with pytest.raises(DeadlineExceeded):
            connection.recv(0.3)
        assert connection.alive
        server.signal(signal.SIGCONT)
        assert connection.recv(60) == b"hello?"


@pytest.mark.parametrize("waits_in", ["connect", "receive", "wait", "post"])
def test_ctrl_c_gets_through_every_wait(process: Start, remote: Endpoint, waits_in: str) -> None:
    with remote.listen() as listener:
        client = process("wait", str(listener.address), waits_in)
        if waits_in == "connect":
            assert client.line() == "waiting"
            client.signal(signal.SIGINT)
            assert client.line() == "KeyboardInterrupt"
            return
        with listener.accept(60):
            assert client.line() == "waiting"
            client.signal(signal.SIGINT)
            assert client.line() == "KeyboardInterrupt"


def test_a_forked_child_has_no_part_in_its_parents_connection(process: Start, remote: Endpoint) -> None:
    with remote.listen() as listener:
        client = process("fork", str(listener.address))
        with listener.accept(60) as connection:
            assert connection.recv(60) == b"before"
            assert client.line() == "child 0"
            assert connection.recv(60) == b"after"  # nothing of the child's came between, and nothing ended
            assert connection.received == 3  # the region's announcement is one
            connection.send(b"fine")
            assert client.line() == "answer fine"
            assert client.end() == 0


def test_it_needs_no_device_and_nothing_of_gpudisagg() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import transport\n"
        "a, b = transport.loop()\n"
        "a.send(b'x'); assert b.recv(10) == b'x'\n"
        "loaded = [name for name in set(sys.modules) - before\n"
        "          if name.split('.')[0] in ('gpudisagg', 'llvmlite', 'cuda', 'asyncio')]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=100)
