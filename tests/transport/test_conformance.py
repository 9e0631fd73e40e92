"""What every endpoint does alike: one suite, run over each there is."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import gc
import os
import socket
import stat
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import transport
import transport.address
from tests.transport.conftest import LESS, Endpoint
from transport import Closed, Connection, DeadlineExceeded, PeerGone, ProtocolError, SessionFaulted, wire

Pair = tuple[Connection, Connection]
LARGEST = wire.MAX_MESSAGE - 16
UNREAD = 24 * 1024  # bytes that every endpoint takes in while nobody reads
# Around slots, pages, and what an Ethernet frame holds of a TCP stream.
BORDERS = sorted(
    {
        size + n
        for size in (64, 128, 192, 1448, 1460, 2896, 4096, 8128, 8192)
        for n in (-33, -32, -31, -17, -16, -15, -1, 0, 1)
    }
)


def payload(n: int, size: int) -> bytes:
    return (n.to_bytes(4, "little") * (size // 4 + 1))[:size]


def fill(connection: Connection) -> int:
    """Sends until a post ends at its deadline for want of credit; how many messages went.

    Over a network that is not for good although nobody reads: kernels may still make room for some more.
    """
    timeout, connection.timeout = connection.timeout, 0.1
    sent = 0
    try:
        while True:
            connection.send(payload(sent, 100))
            sent += 1
    except DeadlineExceeded:
        return sent
    finally:
        connection.timeout = timeout


# ---------------------------------------------------------------- messages


def test_messages_arrive_in_order_both_ways(pair: Pair) -> None:
    for sender, receiver in (pair, pair[::-1]):
        for n in range(500):
            assert sender.send(payload(n, n)) == n + 1
            if n % 7 == 0:
                while receiver.received < n + 1:
                    got = receiver.recv(10)
                    assert got == payload(receiver.received - 1, receiver.received - 1)


@pytest.mark.parametrize("size", [0, 1, *[n for n in BORDERS if 0 < n < LARGEST], LARGEST - 1, LARGEST])
def test_a_message_of_any_size_arrives_whole(pair: Pair, size: int) -> None:
    client, worker = pair
    for n in range(9):  # so that it also wraps around the ring's end
        client.send(payload(n, size))
        assert worker.recv(10) == payload(n, size)
        worker.send(payload(n, size))
        assert client.recv(10) == payload(n, size)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, LARGEST), min_size=1, max_size=30))
def test_messages_of_mixed_sizes_arrive_whole(pair: Pair, sizes: list[int]) -> None:
    client, worker = pair
    behind: collections.deque[bytes] = collections.deque()
    for n, size in enumerate(sizes):
        behind.append(payload(n, size))
        while sum(map(len, behind)) > UNREAD:  # more may wait for the reader, by contract
            assert worker.recv(10) == behind.popleft()
        client.send(payload(n, size))
    while behind:
        assert worker.recv(10) == behind.popleft()


def test_a_message_longer_than_the_largest_is_the_callers_error(pair: Pair) -> None:
    client, worker = pair
    with pytest.raises(ValueError, match="split it"):
        client.send(bytes(LARGEST + 1))
    with pytest.raises(transport.TransportError):
        client.post(wire.OP_DATA, 0, bytes(LARGEST + 1))
    client.send(b"still fine")
    assert worker.recv(10) == b"still fine"


def test_stream_and_op_travel_with_the_message(pair: Pair) -> None:
    client, worker = pair
    client.post(wire.OP_MAP, 7, wire.Map(4096, 8192).pack())
    assert wire.decode(worker.receive(10), True) == wire.Message(wire.OP_MAP, 7, 1, wire.Map(4096, 8192))
    worker.post(wire.OP_BYE, 0, wire.Bye(wire.STATUS_SHUTDOWN, "good night").pack())
    assert wire.decode(client.receive(10), False).body == wire.Bye(wire.STATUS_SHUTDOWN, "good night")


def test_a_malformed_message_is_refused_by_who_receives_it(pair: Pair) -> None:
    client, worker = pair
    client.post(wire.OP_MAP, 0, b"too short")
    for _ in range(2):  # and there is nothing to be had from this connection after it
        with pytest.raises(ProtocolError):
            worker.receive(10)


def test_recv_refuses_what_only_a_session_understands(pair: Pair) -> None:
    client, worker = pair
    client.post(wire.OP_SYNCHRONIZE, 0, b"")
    with pytest.raises(ProtocolError, match="SYNCHRONIZE"):
        worker.recv(10)


# ---------------------------------------------------------------- credits and deadlines


def test_without_credit_a_post_ends_at_its_deadline_and_loses_nothing(pair: Pair) -> None:
    client, worker = pair
    sent = fill(client)
    assert sent > 0
    for n in range(sent):
        assert worker.recv(10) == payload(n, 100)
    with pytest.raises(DeadlineExceeded):
        worker.recv(0)
    client.send(b"room again")
    assert worker.recv(10) == b"room again"
    assert client.stats()["messages_sent"] == sent + 1 == worker.stats()["messages_received"]


def test_a_post_that_waits_for_credit_goes_on_when_there_is_some(pair: Pair) -> None:
    client, worker = pair
    sent = fill(client)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.send, b"last")
        for n in range(sent):
            assert worker.recv(10) == payload(n, 100)
        assert worker.recv(30) == b"last"
        assert waiting.result(30) == sent + 1


@pytest.mark.parametrize("timeout", [0, 0.01, 0.5])
def test_receive_ends_at_its_deadline(pair: Pair, timeout: float) -> None:
    for end in pair:
        with pytest.raises(DeadlineExceeded):
            end.receive(timeout)
        with pytest.raises(TimeoutError):
            end.recv(timeout)


def test_wait_ends_at_its_deadline_and_can_be_repeated(pair: Pair) -> None:
    client, worker = pair
    sequence = client.send(b"x")
    for timeout in (0, 0.01, 0.5):
        with pytest.raises(DeadlineExceeded):
            client.wait(sequence, timeout)
    worker.recv(10)
    worker.publish()
    client.wait(sequence, 10)


# ---------------------------------------------------------------- completion


def test_completion_is_what_the_worker_publishes(pair: Pair) -> None:
    client, worker = pair
    assert client.completed == 0
    client.wait(0, 0)
    for n in range(1, 6):
        client.send(b"")
        worker.recv(10)
        assert client.completed < n
        worker.publish()
        client.wait(n, 10)
        assert client.completed == n == client.posted == worker.received


def test_recv_again_says_that_the_last_was_handled(pair: Pair) -> None:
    client, worker = pair
    first = client.send(b"1")
    worker.recv(10)
    with pytest.raises(DeadlineExceeded):
        worker.recv(0)
    client.wait(first, 10)


def test_a_waiting_client_is_woken_by_publish(pair: Pair) -> None:
    client, worker = pair
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            waiting = pool.submit(client.wait, client.send(b""), 60)
            worker.recv(10)
            worker.publish()
            waiting.result(60)


def test_a_fault_ends_waits_and_is_there_to_be_received(pair: Pair) -> None:
    client, worker = pair
    client.send(b"fails")
    second = client.send(b"never runs")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, second, 60)
        fault = wire.Fault(
            1, wire.STATUS_INVALID, wire.OP_DATA, 0, 0, 0, (0, 0, 0), wire.UNKNOWN_THREAD, "why"
        )
        worker.post(wire.OP_FAULT, 0, fault.pack())
        worker.publish(1, faulted=True)
        with pytest.raises(SessionFaulted):
            waiting.result(60)
    assert wire.decode(client.receive(0), False).body == fault
    with pytest.raises(SessionFaulted):
        client.wait(second, 0)


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("closer", [0, 1], ids=["client closes", "worker closes"])
def test_what_was_sent_before_the_peer_closed_is_still_delivered(pair: Pair, closer: int) -> None:
    sender, receiver = pair[closer], pair[1 - closer]
    for n in range(50):
        sender.send(payload(n, 20 * n))
    sender.close()
    for n in range(50):
        assert receiver.recv(10) == payload(n, 20 * n)
    with pytest.raises(PeerGone):
        receiver.recv(30)
    assert not receiver.alive


def test_an_error_that_was_handled_keeps_no_connection_open(pair: Pair) -> None:
    client, worker = pair
    gc.disable()  # what only it would find
    try:
        with contextlib.suppress(DeadlineExceeded):
            client.receive(0)
        client.close()
        with pytest.raises(PeerGone):
            worker.receive(30)
    finally:
        gc.enable()


def test_either_side_learns_that_the_other_closed(pair: Pair) -> None:
    client, worker = pair
    assert client.alive and worker.alive
    worker.close()
    with pytest.raises(PeerGone):
        client.receive(30)
    with pytest.raises(PeerGone):
        client.wait(1, 30)
    with pytest.raises(PeerGone):
        for _ in range(100_000):
            client.send(bytes(1000))


@pytest.mark.parametrize("closer", [0, 1], ids=["client closes", "worker closes"])
@pytest.mark.parametrize("state", ["new", "used", "unread", "full", "interrupted", "peer closed"])
def test_close_in_every_state(pair: Pair, state: str, closer: int) -> None:
    here, there = pair[closer], pair[1 - closer]
    if state == "used":
        here.send(b"x")
        there.recv(10)
    elif state == "unread":
        there.send(b"never read")
        here.send(b"never read")
    elif state == "full":
        fill(here)
        fill(there)
    elif state == "interrupted":
        here.interrupt()
    elif state == "peer closed":
        there.close()
    here.close()
    here.close()
    assert here.closed and not here.alive
    uses: list[Callable[[], object]] = [
        lambda: here.send(b"x"),
        lambda: here.receive(1),
        lambda: here.recv(1),
        lambda: here.wait(1, 1),
        lambda: here.posted,
        lambda: here.stats(),
        lambda: here.post(wire.OP_DATA, 0, b""),
    ]
    for use in uses:
        with pytest.raises(Closed):
            use()
    here.interrupt()
    assert "closed" in repr(here)


@pytest.mark.parametrize("how", ["close", "interrupt"])
@pytest.mark.parametrize("waits_in", ["receive", "wait", "post"])
def test_closing_ends_the_waits_of_other_threads(pair: Pair, waits_in: str, how: str) -> None:
    client, _ = pair
    sent = fill(client)
    client.timeout = 60
    entered = threading.Event()

    def wait() -> None:
        entered.set()
        if waits_in == "receive":
            client.receive(60)
        elif waits_in == "wait":
            client.wait(sent, 60)
        else:
            while True:  # until one waits: nobody reads, so some last one finds no room
                client.send(bytes(100))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        entered.wait()
        getattr(client, how)()
        # Closed where the thread had not yet entered the call.
        with pytest.raises((PeerGone, Closed)):
            waiting.result(60)


# ---------------------------------------------------------------- half-open peers


def hello_by_hand(address: transport.address.Address) -> socket.socket:
    """A client that says HELLO itself, and reads nothing yet."""
    if address.scheme == "unix":
        one = socket.socket(socket.AF_UNIX)
        one.connect(address.path)
    else:
        one = socket.create_connection((address.host, address.port))
    one.settimeout(60)
    one.sendall(wire.encode_hello(wire.Hello()))
    return one


def not_verbs(endpoint: Endpoint) -> None:
    if endpoint.name == "verbs":
        pytest.skip("its handshake goes on after WELCOME: tests/rdma plays it by hand")


def test_a_client_that_says_it_will_send_no_more_is_gone_for_the_worker(remote: Endpoint) -> None:
    not_verbs(remote)
    with remote.listen() as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(listener.accept, 60)
        with hello_by_hand(listener.address) as client, accepting.result(60) as worker:
            client.shutdown(socket.SHUT_WR)  # and would read on for ever
            with pytest.raises(PeerGone):
                worker.receive(60)
            assert not worker.alive


@pytest.mark.parametrize("waits_in", ["receive", "wait", "post"])
def test_a_worker_that_says_it_will_send_no_more_is_gone_for_the_client(
    remote: Endpoint, waits_in: str
) -> None:
    with remote.listen() as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(transport.connect, str(listener.address), timeout=60)
        worker = listener.accept(60)
        client = connecting.result(60)
        with client, worker:
            sequence = client.send(b"")
            ours = next(one for one in sockets_of_this_process() if same_stream(one, listener.address))
            with socket.socket(fileno=os.dup(ours)) as accepted:
                accepted.shutdown(socket.SHUT_WR)
            with pytest.raises(PeerGone):
                if waits_in == "receive":
                    client.receive(60)
                elif waits_in == "wait":
                    client.wait(sequence, 60)
                else:
                    client.timeout = 60
                    while True:
                        client.send(bytes(4000))


def sockets_of_this_process() -> list[int]:
    """Descriptors of all connected stream sockets."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                one.getpeername()
                found.append(int(name))
    return found


def same_stream(descriptor: int, address: transport.address.Address) -> bool:
    """Whether it is the accepted end of a connection to `address`. Other sockets of this process have other
    names, or none, of either family.
    """
    with socket.socket(fileno=os.dup(descriptor)) as one:
        name = one.getsockname()
        if address.scheme == "unix":
            return one.family == socket.AF_UNIX and bool(name == address.path)
        return one.family != socket.AF_UNIX and bool(name[1] == address.port)


# ---------------------------------------------------------------- many


def test_64_sessions_at_once_are_64_sessions(endpoint: Endpoint) -> None:
    total = 64
    with contextlib.ExitStack() as stack:
        if endpoint.name == "loop":
            pairs = [transport.loop(timeout=30) for _ in range(total)]
        else:
            listener = stack.enter_context(endpoint.listen(backlog=total))
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(8))
            address = str(listener.address)
            clients = [
                pool.submit(transport.connect, address, name=str(n), timeout=100) for n in range(total)
            ]
            workers = {}
            for _ in range(total):
                worker = listener.accept(100)
                assert worker.hello is not None
                workers[worker.hello.name] = worker
            pairs = [(client.result(100), workers[str(n)]) for n, client in enumerate(clients)]
        for pair in pairs:
            for end in pair:
                stack.callback(end.close)
        for round_ in range(20):
            for n, (client, _) in enumerate(pairs):
                client.send(payload(n * 1000 + round_, 5 * n + round_))
            for n, (_, worker) in enumerate(pairs):
                data = worker.recv(60)
                assert data == payload(n * 1000 + round_, 5 * n + round_)
                worker.send(data)
            for n, (client, _) in enumerate(pairs):
                assert client.recv(60) == payload(n * 1000 + round_, 5 * n + round_)
        for client, worker in pairs[::2]:  # and the end of one is no other's
            client.close()
            with pytest.raises(PeerGone):
                worker.recv(60)
        for client, worker in pairs[1::2]:
            client.send(b"still here")
            assert worker.recv(60) == b"still here"


def test_a_million_messages_arrive_in_order(pair: Pair) -> None:
    client, worker = pair
    total, batch = 1_000_000 // LESS, 50
    post, receive = client.post, worker.receive
    bodies = [bytes([n]) * n for n in range(batch)]
    sequence = 0
    for _ in range(total // batch):
        for body in bodies:
            sequence = post(wire.OP_DATA, 0, body)
        for body in bodies:
            assert receive(60)[16:] == body
    assert sequence == total == worker.received == client.posted
    worker.publish()
    client.wait(total, 60)


# ---------------------------------------------------------------- threads


def test_messages_of_several_threads_all_arrive_each_threads_in_order(pair: Pair) -> None:
    client, worker = pair
    threads, each = 4, 2000
    sequences: list[list[int]] = [[] for _ in range(threads)]

    def send(thread: int) -> None:
        for n in range(each):
            data = bytes([thread]) + n.to_bytes(4, "little") + bytes(n % 200)
            sequences[thread].append(client.send(data))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(send, thread) for thread in range(threads)]
        expected = [0] * threads
        for _ in range(threads * each):
            data = worker.recv(60)
            assert int.from_bytes(data[1:5], "little") == expected[data[0]]
            expected[data[0]] += 1
        for future in done:
            future.result(60)
    assert sorted(n for numbers in sequences for n in numbers) == list(range(1, threads * each + 1))
    assert all(numbers == sorted(numbers) for numbers in sequences)


def test_several_threads_may_receive_each_message_once(pair: Pair) -> None:
    client, worker = pair
    total = 3000

    def receive() -> list[bytes]:
        got = []
        while (data := worker.recv(60)) != b"end":
            got.append(data)
        return got

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        receiving = [pool.submit(receive) for _ in range(3)]
        for n in range(total):
            client.send(n.to_bytes(4, "little"))
        for _ in receiving:
            client.send(b"end")
        got = [data for future in receiving for data in future.result(60)]
    assert sorted(got) == sorted(n.to_bytes(4, "little") for n in range(total))


def test_both_directions_at_once(pair: Pair) -> None:
    total = 5000

    def talk(end: Connection) -> None:
        for n in range(total):
            end.send(payload(n, n % 300))

    def hear(end: Connection) -> None:
        for n in range(total):
            assert end.recv(60) == payload(n, n % 300)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(what, end) for end in pair for what in (talk, hear)]
        for future in futures:
            future.result(60)
