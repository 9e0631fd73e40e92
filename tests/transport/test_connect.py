"""Reaching and listening over TCP, before any message: names, addresses, who is let in, what errors say."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

import transport
from tests.conftest import ROOT
from tests.transport.accepting import Accepting
from transport import DeadlineExceeded, PeerGone, Refused, TransportError, network, wire
from transport.address import parse

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
HAS_IPV6 = os.path.exists("/proc/net/if_inet6") and bool(open("/proc/net/if_inet6").read())  # noqa: PTH110, SIM115


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


# ---------------------------------------------------------------- listening


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]"])
def test_port_0_is_a_free_one_and_the_listener_says_which(host: str) -> None:
    if "[" in host and not HAS_IPV6:
        pytest.skip("no IPv6 here")
    with transport.listen(f"tcp://{host}:0") as listener:
        assert listener.address.port > 0
        reached = listener.address._replace(host="::1" if ":" in listener.address.host else "127.0.0.1")
        with network.dial(reached, 30) as one:
            assert one.getpeername()[1] == listener.address.port
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with transport.listen("tcp://127.0.0.1:0") as listener:
        with pytest.raises(OSError, match="stop it, or listen elsewhere") as error:
            transport.listen(str(listener.address))
        assert error.value.errno == errno.EADDRINUSE


def test_a_port_is_free_again_at_once_after_its_listener_has_closed() -> None:
    with transport.listen("tcp://127.0.0.1:0") as listener:
        address = str(listener.address)
        with network.dial(listener.address, 30):
            pass
    listener.close()
    transport.listen(address).close()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://198.51.100.7:0", "no address of this host"),
        ("tcp://no-such-host.invalid:0", "no host no-such-host.invalid is known here"),
    ],
)
def test_where_it_cannot_listen_it_says_why(address: str, says: str) -> None:
    with pytest.raises(OSError, match=says):
        transport.listen(address)


def test_nobody_listens_on_auto() -> None:
    with pytest.raises(ValueError, match="is for clients"):
        transport.listen("auto://127.0.0.1:7777")


# ---------------------------------------------------------------- reaching


@pytest.mark.parametrize("scheme", ["tcp", "auto"])
def test_where_nobody_listens_the_error_says_how_to_start_a_server(scheme: str) -> None:
    port = free_port()
    with pytest.raises(PeerGone, match=f"gpudisagg serve --listen tcp://127.0.0.1:{port}"):
        transport.connect(f"{scheme}://127.0.0.1:{port}", timeout=30)


def test_a_name_that_nobody_knows_is_an_error_that_names_it() -> None:
    with pytest.raises(TransportError, match=r"no host no-such-host\.invalid is known here"):
        transport.connect("tcp://no-such-host.invalid:7777", timeout=60)


def test_a_name_that_takes_too_long_to_resolve_costs_no_more_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = threading.Event()
    real = socket.getaddrinfo

    def slow(host: bytes, port: int, **options: int) -> object:
        if options.get("flags") != socket.AI_NUMERICHOST:
            found.wait(60)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with pytest.raises(DeadlineExceeded, match="was not resolved within"):
            transport.connect("tcp://a-slow-name:7777", timeout=0.2)
    finally:
        found.set()


def test_a_host_that_swallows_packets_costs_no_more_than_the_timeout() -> None:
    with socket.socket() as full:  # a backlog that is full drops what comes
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = []
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        with pytest.raises(DeadlineExceeded):
            transport.connect(f"tcp://127.0.0.1:{address[1]}", timeout=0.5)
        for one in waiting:
            one.close()


def test_every_address_of_a_name_is_tried_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        several = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port())),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **o: several)
        with network.dial(parse("tcp://two-addresses:1"), 30) as one:
            assert one.getpeername()[1] == port


def test_rdma_without_a_device_says_why_and_what_else_there_is() -> None:
    works, words = transport.ways.probe_verbs()
    if works:
        pytest.skip(f"this machine has RDMA: {words}")
    with pytest.raises(TransportError, match="use tcp://") as error:
        transport.connect("rdma://127.0.0.1:7777", timeout=30)
    assert words in str(error.value)
    with pytest.raises(OSError, match="tcp:// works everywhere"):
        transport.listen("rdma://127.0.0.1:0")


def test_a_server_of_tcp_refuses_verbs_in_words() -> None:
    with transport.listen("tcp://127.0.0.1:0") as listener, concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(listener.accept, 2)
        with network.dial(listener.address, 30) as one:
            one.sendall(wire.encode_hello(wire.Hello(features=wire.FEATURE_VERBS)))
            one.settimeout(30)
            refusal = wire.decode_refused(one.recv(wire.MAX_FRAME))
        assert refusal.status == wire.STATUS_UNSUPPORTED
        assert "use tcp:// or auto://" in refusal.reason
        with pytest.raises(DeadlineExceeded):
            accepting.result(30)


# ---------------------------------------------------------------- who is let in


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_on_one_host_the_kernel_knows_whose_a_tcp_connection_is(host: str) -> None:
    if "[" in host and not HAS_IPV6:
        pytest.skip("no IPv6 here")
    with socket.create_server(
        (host.strip("[]"), 0), family=socket.AF_INET6 if "[" in host else socket.AF_INET
    ) as listening:
        with socket.create_connection(listening.getsockname()[:2]) as one:
            accepted, _ = listening.accept()
            with accepted:
                assert network.user_of(accepted) == os.geteuid()
                one.close()
                assert network.user_of(accepted) is None  # a closed one is listed as root's


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 here")
def test_a_connection_from_an_ipv6_socket_to_an_ipv4_address_is_known_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_INET6) as one:
        one.connect(("::ffff:127.0.0.1", listening.getsockname()[1]))
        accepted, _ = listening.accept()
        with accepted:
            assert network.user_of(accepted) == os.geteuid()


CONNECT_AS = """
import os, sys, transport
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    transport.connect(sys.argv[1], timeout=30)
except transport.Refused as refusal:
    print(refusal.status, refusal.reason)
"""


@root_only
@pytest.mark.parametrize("scheme", ["tcp", "auto"])
def test_another_user_of_this_host_is_refused_over_tcp_as_over_a_unix_socket(scheme: str) -> None:
    with transport.listen("tcp://127.0.0.1:0") as listener, Accepting(listener) as accepted:
        address = str(listener.address._replace(scheme=scheme))
        said = subprocess.run(
            [sys.executable, "-c", CONNECT_AS, address],
            capture_output=True, text=True, timeout=60, cwd=ROOT, check=True,
        )  # fmt: skip
        assert said.stdout.startswith(f"{wire.STATUS_DENIED} user 65534 may not connect here")
        assert accepted.accepted.empty()
    assert listener.refused == {wire.STATUS_DENIED: 1}


def test_who_listens_may_let_in_anybody() -> None:
    seen = []

    def allow(peer: transport.Peer) -> bool:
        seen.append(peer)
        return False

    with transport.listen("tcp://127.0.0.1:0", allow=allow) as listener:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(listener.accept, 2)
            with pytest.raises(Refused):
                transport.connect(str(listener.address), timeout=30)
            with pytest.raises(DeadlineExceeded):
                accepting.result(30)
    assert seen == [(None, os.geteuid(), None)]
