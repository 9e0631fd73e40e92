"""How a server says by which transports it can be reached, and how a client finds the best of them."""

from __future__ import annotations

import concurrent.futures
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import transport
from tests.transport import messages as m
from transport import DeadlineExceeded, Listener, PeerGone, ProtocolError, Refused, TransportError, wire
from transport.address import Address, parse
from transport.bootstrap import MAX_ASKS
from transport.ways import Way, ask, host_id, offered, ways_for

THERE = b"another host's id"[:16]

lines = st.text(st.characters(exclude_characters="\n\0", codec="utf-8"), min_size=1, max_size=60)
ways = st.builds(
    wire.Ways,
    st.binary(min_size=16, max_size=16),
    st.text("0123456789abcdef", max_size=32),
    st.lists(lines.filter(lambda line: not line.startswith("server:")), max_size=9).map(tuple),
)


# ---------------------------------------------------------------- the frames


@given(ways)
def test_ways_arrive_as_they_were_sent(sent: wire.Ways) -> None:
    assert wire.decode_ways(wire.encode_ways(sent)) == sent


def test_addresses_for_which_there_is_no_room_are_left_out() -> None:
    many = tuple(f"unix:///{'x' * 90}/{n}" for n in range(200))
    got = wire.decode_ways(wire.encode_ways(wire.Ways(bytes(16), "a", many)))
    assert 30 < len(got.addresses) < 200
    assert got.addresses == many[: len(got.addresses)]


def test_an_ask_that_says_more_than_this_version_knows_is_refused() -> None:
    wire.decode_ask(wire.encode_ask())
    for frame in (
        wire.encode_ask()[:-8] + b"\1" + bytes(7),
        wire.encode_ask()[:8] + (25).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8) + b"x",
    ):
        with pytest.raises(ProtocolError):
            wire.decode_ask(frame)


@given(m.mutated(ways.map(wire.encode_ways)))
def test_any_bytes_are_ways_or_a_protocol_error(frame: bytes) -> None:
    try:
        got = wire.decode_ways(frame)
    except ProtocolError:
        return
    for scheme in ("unix", "tcp", "rdma"):
        assert all(address.scheme == scheme for address in offered(got, scheme))


def test_addresses_that_this_version_cannot_read_are_passed_over() -> None:
    told = wire.Ways(
        bytes(16), "", ("quic://h:1", "tcp://h", "tcp://h:2", "unix:///s", "rubbish", "tcp://h:3")
    )
    assert [address.port for address in offered(told, "tcp")] == [2, 3]
    assert offered(told, "rdma") == []


# ---------------------------------------------------------------- what a server tells whom

EVERYWHERE = [parse(text, listening=True) for text in (
    "unix:///s.sock", "tcp://0.0.0.0:1", "rdma://0.0.0.0:2", "tcp://[::]:3", "tcp://127.0.0.1:4", "tcp://10.1.2.3:5",
)]  # fmt: skip


class At:
    """A connected socket at that address of this host."""

    def __init__(self, host: str | None) -> None:
        self.family = socket.AF_UNIX if host is None else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host

    def getsockname(self) -> object:
        return (self.host, 4321) if self.host else "/s.sock"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (None, ["unix:///s.sock", "tcp://127.0.0.1:4", "tcp://10.1.2.3:5"]),
        (
            "127.0.0.1",
            [
                "unix:///s.sock",
                "tcp://127.0.0.1:1",
                "rdma://127.0.0.1:2",
                "tcp://127.0.0.1:4",
                "tcp://10.1.2.3:5",
            ],
        ),
        ("10.1.2.3", ["unix:///s.sock", "tcp://10.1.2.3:1", "rdma://10.1.2.3:2", "tcp://10.1.2.3:5"]),
        ("2001:db8::1", ["unix:///s.sock", "tcp://[2001:db8::1]:3"]),
    ],
)
def test_a_client_is_told_what_it_can_use_from_where_it_is(host: str | None, told: list[str]) -> None:
    answer = ways_for(At(host), "me", EVERYWHERE)  # type: ignore[arg-type]
    assert list(answer.addresses) == told
    assert (answer.host, answer.server) == (host_id(), "me")


def test_the_hosts_id_is_the_same_in_every_process_here() -> None:
    assert host_id() == host_id() != bytes(16)
    assert len(host_id()) == 16


# ---------------------------------------------------------------- asking


@pytest.fixture(params=["unix", "tcp"])
def listener(request: pytest.FixtureRequest, address: str) -> Iterator[Listener]:
    with transport.listen(address if request.param == "unix" else "tcp://127.0.0.1:0") as one:
        yield one


def reach(address: Address) -> socket.socket:
    if address.scheme == "unix":
        one = socket.socket(socket.AF_UNIX)
        one.connect(address.path)
        return one
    return socket.create_connection((address.host, address.port))


def test_who_asks_is_answered_and_may_still_say_hello(listener: Listener) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool, reach(listener.address) as one:
        accepting = pool.submit(listener.accept, 5)
        for _ in range(3):
            answer = ask(one, 30)
            assert answer.addresses == (str(listener.address),)
            assert answer.host == host_id()
        one.sendall(wire.encode_hello(wire.Hello(wire.VERSION + 1, wire.VERSION + 1)))
        one.settimeout(30)
        assert wire.decode_refused(one.recv(wire.MAX_FRAME)).status == wire.STATUS_VERSION
        with pytest.raises(DeadlineExceeded):
            accepting.result(30)


def test_two_servers_have_two_names_and_one_server_has_one(listener: Listener, address: str) -> None:
    with transport.listen(f"{address}.other") as other, concurrent.futures.ThreadPoolExecutor(2) as pool:
        names = []
        for one in (listener, other, listener):
            accepting = pool.submit(one.accept, 1)
            with reach(one.address) as client:
                names.append(ask(client, 30).server)
            with pytest.raises(DeadlineExceeded):
                accepting.result(30)
    assert names[0] == names[2] != names[1]


def test_who_only_asks_is_told_to_stop(listener: Listener) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool, reach(listener.address) as one:
        accepting = pool.submit(listener.accept, 5)
        with pytest.raises((Refused, PeerGone)) as error:
            for _ in range(MAX_ASKS + 1):
                ask(one, 30)
        if isinstance(error.value, Refused):
            assert error.value.status == wire.STATUS_PROTOCOL
        with pytest.raises(DeadlineExceeded):
            accepting.result(30)


def test_who_may_not_connect_may_not_ask_either(address: str) -> None:
    with (
        transport.listen(address, allow=lambda peer: False) as listener,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        reach(listener.address) as one,
    ):
        accepting = pool.submit(listener.accept, 2)
        with pytest.raises(Refused) as refusal:
            ask(one, 30)
        assert refusal.value.status == wire.STATUS_DENIED
        with pytest.raises(DeadlineExceeded):
            accepting.result(30)


# ---------------------------------------------------------------- choosing


def answering(told: Callable[[int], wire.Ways], then: bytes) -> tuple[socket.socket, Callable[[], None]]:
    """A server at a TCP port that answers one client's ASK with `told` (given the port) and what comes after
    it with `then`.
    """
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            client.settimeout(30)
            client.recv(wire.MAX_FRAME)
            client.sendall(wire.encode_ways(told(listening.getsockname()[1])))
            if client.recv(wire.MAX_FRAME):
                client.sendall(then)

    return listening, serve


def auto(told: Callable[[int], wire.Ways], then: bytes = b"") -> None:
    """Connects to a server that answers so; raises as connect() does."""
    listening, serve = answering(told, then)
    with listening, concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        try:
            transport.connect(f"auto://127.0.0.1:{listening.getsockname()[1]}", timeout=30)
        finally:
            serving.result(30)


BUSY = wire.encode_refused(wire.RefusedFrame(wire.STATUS_BUSY, 1000, "come back later"))


def test_a_server_of_which_nothing_can_be_used_is_an_error_with_every_reason() -> None:
    with pytest.raises(TransportError) as error:
        auto(lambda port: wire.Ways(THERE, "x", ("quic://127.0.0.1:1",)))
    for reason in (
        "shm: the server is on another host",
        "verbs: the server listens on no rdma:// address",
        "tcp: the server listens on no tcp:// address",
    ):
        assert reason in str(error.value)


def test_a_unix_address_of_another_host_is_not_touched(address: str) -> None:
    with transport.listen(address) as listener:
        with pytest.raises(TransportError, match="shm: the server is on another host"):
            auto(lambda port: wire.Ways(THERE, "x", (address,)))
        with pytest.raises(DeadlineExceeded):
            listener.accept(0)


@pytest.mark.parametrize("id_of_host", [bytes(16), THERE])
def test_a_host_that_is_not_known_is_not_this_one(id_of_host: bytes, address: str) -> None:
    with transport.listen(address), pytest.raises(TransportError, match="on another host"):
        auto(lambda port: wire.Ways(id_of_host, "x", (address,)))


def test_a_file_of_that_name_may_be_another_servers(address: str) -> None:
    """Two containers of one host have one boot id and two file systems."""
    with transport.listen(address) as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(listener.accept, 3)
        with pytest.raises(TransportError, match="another server listens"):
            auto(lambda port: wire.Ways(host_id(), "not that one", (address,)))
        with pytest.raises(DeadlineExceeded):
            accepting.result(30)


def test_a_unix_address_that_is_not_there_is_why_not(address: str) -> None:
    with pytest.raises(TransportError, match=f"shm: nobody listens on {address}"):
        auto(lambda port: wire.Ways(host_id(), "x", (address,)))


def test_a_server_that_is_busy_is_busy_by_every_way() -> None:
    with pytest.raises(Refused) as refusal:
        auto(lambda port: wire.Ways(THERE, "x", (f"tcp://127.0.0.1:{port}",)), BUSY)
    assert (refusal.value.status, refusal.value.retry_ms) == (wire.STATUS_BUSY, 1000)


def test_an_answer_that_is_none_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError), socket.create_server(("127.0.0.1", 0)) as listening:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            def serve() -> None:
                client, _ = listening.accept()
                with client:
                    client.recv(wire.MAX_FRAME)
                    client.sendall(wire.encode_hello(wire.Hello()))

            pool.submit(serve)
            transport.connect(f"auto://127.0.0.1:{listening.getsockname()[1]}", timeout=30)


def test_a_server_that_answers_no_ask_costs_no_more_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(DeadlineExceeded):
        transport.connect(f"auto://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3)


def test_a_way_reads_as_what_it_is() -> None:
    assert Way("tcp", transport.PICKED) == ("tcp", "picked")
