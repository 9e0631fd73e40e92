"""Before there is a ring: who may connect, what a HELLO must be, which descriptors are believed."""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import transport
from tests.transport import messages as m
from tests.transport.accepting import Accepting
from transport import DeadlineExceeded, Listener, PeerGone, ProtocolError, Refused, wire
from transport.address import parse


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    with transport.listen(address) as one:
        yield one


def raw(listener: Listener) -> socket.socket:
    """A client that has yet to say anything."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(60)
    one.connect(listener.address.path)
    return one


def answer(one: socket.socket) -> wire.RefusedFrame:
    """The REFUSED that comes, and nothing after it."""
    data = b""
    while chunk := one.recv(wire.MAX_FRAME):
        data += chunk
    return wire.decode_refused(data)


# ---------------------------------------------------------------- the handshake


def test_both_sides_know_what_was_asked_and_granted(listener: Listener) -> None:
    with Accepting(listener, memory=1 << 20, name="a device") as accepted:
        client = transport.connect(
            str(listener.address), name="a function", memory=5, host_memory=6, timeout=30
        )
        worker = accepted.result(60)
    assert worker.hello.name == "a function"
    assert (worker.hello.memory, worker.hello.host_memory) == (5, 6)
    assert 0 < worker.hello.deadline_ms <= 30_000
    assert worker.peer == (os.getpid(), os.geteuid(), os.getegid())
    assert client.welcome == worker.welcome
    assert client.welcome is not None
    assert (client.welcome.memory, client.welcome.name, client.welcome.version) == (
        1 << 20,
        "a device",
        wire.VERSION,
    )
    assert client.welcome.features & worker.hello.features == client.welcome.features
    client.close()


def test_a_client_that_is_not_allowed_is_refused(address: str) -> None:
    allowed = threading.Event()
    with (
        transport.listen(address, allow=lambda peer: allowed.is_set()) as listener,
        Accepting(listener) as accepted,
    ):
        with pytest.raises(Refused) as refusal:
            transport.connect(address, timeout=60)
        allowed.set()
        assert accepted.accepted.empty()
    assert refusal.value.status == wire.STATUS_DENIED
    assert str(os.geteuid()) in refusal.value.reason
    assert listener.refused == {wire.STATUS_DENIED: 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_by_default_the_kernels_word_decides_who_the_client_is(listener: Listener) -> None:
    Path(listener.address.path).parent.chmod(0o755)
    Path(listener.address.path).chmod(0o666)
    with Accepting(listener):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setuid(65534)
                transport.connect(str(listener.address), timeout=30)
            except Refused as refusal:
                status = 0 if refusal.status == wire.STATUS_DENIED else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        os.close(read)
        os.close(write)
        assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(("least", "most"), [(2, 5), (0, 0), (wire.VERSION + 1, 65535)])
def test_without_a_common_version_the_refusal_says_who_is_older(
    listener: Listener, least: int, most: int
) -> None:
    with Accepting(listener), raw(listener) as one:
        one.sendall(wire.encode_hello(wire.Hello(least, most)))
        refusal = answer(one)
    assert refusal.status == wire.STATUS_VERSION
    assert refusal.retry_ms == 0
    assert f"the {'client' if most < wire.VERSION else 'server'} is the older one" in refusal.reason
    assert listener.refused[wire.STATUS_VERSION] == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: gpu\r\n\r\n",
        bytes(16),
        b"\xff" * 100,
        wire.encode_hello(wire.Hello())[:20],
        wire.encode_refused(wire.RefusedFrame(1, 0, "no, you")),
        wire.encode_welcome(wire.Welcome()),
    ],
    ids=["http", "zeros", "ones", "half", "refused", "welcome"],
)
def test_garbage_for_a_hello_is_refused_and_the_next_client_served(
    listener: Listener, garbage: bytes
) -> None:
    with Accepting(listener) as accepted:
        with raw(listener) as one:
            one.sendall(garbage)
            one.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError, ProtocolError):
                assert answer(one).status == wire.STATUS_PROTOCOL
        with transport.connect(str(listener.address), timeout=60) as client:
            client.send(b"served")
            assert accepted.result(60).recv(60) == b"served"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=m.mutated(m.hellos.map(wire.encode_hello)))
def test_no_hello_breaks_the_listener(listener: Listener, frame: bytes) -> None:
    with Accepting(listener):
        with raw(listener) as one:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                one.sendall(frame)
                one.shutdown(socket.SHUT_WR)
                one.recv(wire.MAX_FRAME)


def test_a_hello_with_a_descriptor_is_refused_and_the_descriptor_closed(listener: Listener) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Accepting(listener), raw(listener) as one:
        read, write = os.pipe()
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, write]))]
        one.sendmsg([wire.encode_hello(wire.Hello())], control)
        os.close(read)
        assert answer(one).status == wire.STATUS_PROTOCOL
        os.set_blocking(write, False)
        with pytest.raises(BrokenPipeError):  # so nobody holds the reading end any more
            os.write(write, b"x")
        os.close(write)
    assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- a client's view of a bad server


@contextlib.contextmanager
def bad_server(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[str]:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        one.bind(str(path / "bad.sock"))
        one.listen()

        def serve() -> None:
            peer, _ = one.accept()
            with peer:
                peer.settimeout(60)
                peer.recv(wire.MAX_FRAME)
                behave(peer)

        future = pool.submit(serve)
        yield f"unix://{path}/bad.sock"
        future.result(60)


def send_with(peer: socket.socket, frame: bytes, descriptor: int) -> None:
    peer.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


GOOD = wire.Welcome(command_slots=4096, reply_slots=1024)


def segment(sealed: bool, size: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.truncate(descriptor, size)
    if sealed:
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    return descriptor


@pytest.mark.parametrize(
    ("welcome", "sealed", "size"),
    [
        (GOOD, False, 1 << 20),
        (GOOD, True, 4096),
        (GOOD, True, 0),
        (GOOD._replace(command_slots=4097), True, 1 << 20),
        (GOOD._replace(command_slots=0), True, 1 << 20),
        (GOOD._replace(reply_slots=2**31), True, 1 << 20),
        (GOOD._replace(version=99), True, 1 << 20),
        (GOOD._replace(features=1 << 40), True, 1 << 20),
    ],
    ids=["unsealed", "too small", "empty", "odd ring", "no ring", "huge ring", "version", "features"],
)
def test_a_welcome_that_cannot_be_true_is_refused(
    short_path: Path, welcome: wire.Welcome, sealed: bool, size: int
) -> None:
    def behave(peer: socket.socket) -> None:
        descriptor = segment(sealed, size)
        send_with(peer, wire.encode_welcome(welcome), descriptor)
        os.close(descriptor)
        peer.recv(1)  # until the client has hung up

    before = len(os.listdir("/proc/self/fd"))
    with bad_server(short_path, behave) as address:
        with pytest.raises(transport.TransportError) as error:
            transport.connect(address, timeout=30)
        assert not isinstance(error.value, DeadlineExceeded)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "frame", [wire.encode_welcome(GOOD), b"\0" * 64, b""], ids=["no segment", "garbage", "hang-up"]
)
def test_an_answer_that_is_none_is_an_error(short_path: Path, frame: bytes) -> None:
    with bad_server(short_path, lambda peer: peer.sendall(frame)) as address:
        with pytest.raises((ProtocolError, PeerGone)):
            transport.connect(address, timeout=30)


def test_a_refusal_carries_status_reason_and_when_to_retry(short_path: Path) -> None:
    frame = wire.encode_refused(wire.RefusedFrame(wire.STATUS_BUSY, 1500, "all 2 workers are taken"))
    with bad_server(short_path, lambda peer: peer.sendall(frame)) as address:
        with pytest.raises(Refused, match="all 2 workers") as refusal:
            transport.connect(address, timeout=30)
    assert (refusal.value.status, refusal.value.retry_ms) == (wire.STATUS_BUSY, 1500)


def test_a_server_that_says_nothing_costs_no_more_than_the_timeout(short_path: Path) -> None:
    with bad_server(short_path, lambda peer: (peer.recv(1), None)[1]) as address:
        with pytest.raises(DeadlineExceeded):
            transport.connect(address, timeout=0.3)


def test_where_nobody_listens_the_error_says_how_to_start_a_server(address: str) -> None:
    with pytest.raises(PeerGone, match="gpudisagg serve --listen"):
        transport.connect(address)


# ---------------------------------------------------------------- the socket's file


def test_a_stale_socket_file_is_replaced(address: str) -> None:
    path = parse(address).path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    assert Path(path).exists()
    with transport.listen(address) as listener, Accepting(listener) as accepted:
        with transport.connect(address, timeout=30) as client:
            client.send(b"x")
            assert accepted.result(60).recv(60) == b"x"


def test_a_live_server_is_not_replaced(listener: Listener) -> None:
    with pytest.raises(OSError, match="a server is listening") as error:
        transport.listen(str(listener.address))
    assert error.value.errno == errno.EADDRINUSE
    with Accepting(listener) as accepted, transport.connect(str(listener.address), timeout=30) as client:
        client.send(b"still there")
        assert accepted.result(60).recv(60) == b"still there"


def test_who_keeps_the_folder_locked_holds_up_a_server_for_a_while_only(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.bootstrap._LOCK_TIMEOUT", 0.05)
    folder = Path(parse(address).path).parent
    served = transport.listen(address)
    other = f"{address}.other"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"held the lock of .* listen elsewhere"):
            transport.listen(other)
        served.close()
    finally:
        os.close(descriptor)
    transport.listen(other).close()


def test_a_file_that_is_no_socket_is_left_alone(short_path: Path) -> None:
    precious = short_path / "precious.txt"
    precious.write_text("data")
    with pytest.raises(OSError, match="no socket"):
        transport.listen(f"unix://{precious}")
    assert precious.read_text() == "data"


def test_closing_removes_the_file_but_not_a_successors(address: str) -> None:
    path = Path(parse(address).path)
    first = transport.listen(address)
    first.close()
    assert not path.exists()
    first.close()
    second = transport.listen(address)
    path.unlink()
    third = transport.listen(address)
    second.close()
    assert path.exists()
    third.close()


def test_only_this_user_may_reach_the_socket_by_default(listener: Listener, short_path: Path) -> None:
    assert stat.S_IMODE(Path(listener.address.path).stat().st_mode) == 0o600
    with transport.listen(f"unix://{short_path}/open.sock", mode=0o666) as other:
        assert stat.S_IMODE(Path(other.address.path).stat().st_mode) == 0o666  # whatever the umask
