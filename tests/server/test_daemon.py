"""The daemon to its clients: who gets in, who waits, who is told no; and none of them can hold up another."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import transport
from tests.server.conftest import over_each
from tests.server.process import Server, read_frame, read_refusal, until
from transport import wire

MIB = 1 << 20
NOBODY = 65534
Start = Callable[..., Server]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@over_each
def test_a_session_opens_with_what_it_asked_for(start: Start) -> None:
    server = start("--workers", "1", "--memory", "64MiB", "--host-memory", "32MiB")
    with transport.connect(server.address, name="test", memory=3 * MIB) as connection:
        welcome = connection.welcome
        assert welcome is not None
        assert welcome.memory == 3 * MIB
        assert welcome.host_memory == 32 * MIB
        assert welcome.features & wire.FEATURE_DEVICE
        assert welcome.window_base and welcome.window_size > welcome.memory + welcome.host_memory
        assert welcome.name
        assert list(server.status()["sessions"]) == [str(welcome.session)]
    server.until_warm()
    assert server.status()["sessions"] == {}


@over_each
def test_a_worker_serves_one_session_after_another_under_new_numbers(start: Start) -> None:
    server = start("--workers", "1")
    (pid,) = server.until_warm()["pids"]
    numbers = []
    for _ in range(5):
        with transport.connect(server.address) as connection:
            assert connection.welcome is not None
            numbers.append(connection.welcome.session)
            assert server.status()["sessions"] == {str(numbers[-1]): pid}
    assert len(set(numbers)) == 5
    assert server.until_warm()["pids"] == [pid]
    assert server.status()["served"] == 5


def test_each_session_has_a_worker_of_its_own(start: Start) -> None:
    server = start("--workers", "2")
    server.until_warm(2)
    with transport.connect(server.address), transport.connect(server.address):
        status = server.status()
        assert len(set(status["sessions"].values())) == 2
        assert status["workers"]["busy"] == 2


@pytest.mark.parametrize("second", ["more.sock", "other.sock"])
def test_it_listens_on_every_address_given(start: Start, second: str, short_path: os.PathLike[str]) -> None:
    more = f"unix://{os.fspath(short_path)}/{second}"
    server = start("--listen", more, "--workers", "1")
    for address in (server.address, more):
        with transport.connect(address):
            pass
        server.until_warm()


# ---------------------------------------------------------------- memory


@over_each
@pytest.mark.parametrize("asked", [{"memory": 64 * MIB + 1}, {"host_memory": 32 * MIB + 1}])
def test_too_much_memory_is_refused_with_both_numbers(start: Start, asked: dict[str, int]) -> None:
    server = start("--workers", "1", "--memory", "64MiB", "--host-memory", "32MiB")
    with pytest.raises(transport.Refused) as refusal:
        transport.connect(server.address, **asked)
    assert refusal.value.status == wire.STATUS_OUT_OF_MEMORY
    (number,) = asked.values()
    assert str(number) in refusal.value.reason and str(number - 1) in refusal.value.reason
    assert server.status()["refused"] == {"OUT_OF_MEMORY": 1}
    assert server.status()["workers"]["warm"] == 1


# ---------------------------------------------------------------- hostile clients

frame_like = st.builds(
    lambda magic, kind, size, text, rest: (
        magic
        + kind.to_bytes(2, "little")
        + b"\0\0"
        + size.to_bytes(4, "little")
        + text.to_bytes(4, "little")
        + rest
    ),
    magic=st.just(b"GPUD") | st.binary(min_size=4, max_size=4),
    kind=st.integers(0, 8),
    size=st.integers(0, 5000) | st.integers(0, 2**32 - 1),
    text=st.integers(0, 64) | st.integers(0, 2**32 - 1),
    rest=st.binary(max_size=200),
)
mangled_hello = st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=4)).map(
    lambda cut: (lambda h: h[: cut[0]] + cut[1] + h[cut[0] + len(cut[1]) :])(
        wire.encode_hello(wire.Hello(name="x" * 20))
    )
)


@over_each
def test_any_bytes_for_a_hello_end_in_an_answer_or_a_hangup_and_nobody_else_notices(start: Start) -> None:
    server = start("--workers", "1")

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=300) | frame_like | mangled_hello)
    def attack(data: bytes) -> None:
        with server.open() as client:
            answer = b""
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while some := client.recv(65536):
                    answer += some
            except OSError:
                pass  # it hung up on what it had not read
            if answer:
                wire.frame_size(answer)

    attack()
    with transport.connect(server.address):
        assert server.process.poll() is None
    assert server.until_warm()["pending"] == 0


@over_each
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GPUD" + bytes(12),
        b"GPUD\x01\0\0\0\xff\xff\xff\xff\0\0\0\0",
        wire.encode_refused(wire.RefusedFrame(1)),
    ],
)
def test_what_is_no_hello_is_refused_as_such(start: Start, data: bytes) -> None:
    server = start("--workers", "1")
    with server.open() as client:
        client.sendall(data)
        refusal = wire.decode_refused(read_frame(client))
        assert refusal.status == wire.STATUS_PROTOCOL
        assert "did not understand" in refusal.reason
    assert server.status()["refused"] == {"PROTOCOL": 1}


@over_each
def test_another_version_is_refused(start: Start) -> None:
    server = start("--workers", "1")
    with server.hello(version_min=wire.VERSION + 1, version_max=wire.VERSION + 9) as client:
        assert read_refusal(client).status == wire.STATUS_VERSION


@over_each
def test_who_does_not_speak_is_hung_up_on(start: Start) -> None:
    server = start("--workers", "1", "--hello-timeout", "0.2")
    with server.open() as silent, server.open() as slow:
        slow.sendall(wire.encode_hello(wire.Hello())[:-1])
        for client in (silent, slow):
            refusal = read_refusal(client)
            assert refusal.status == wire.STATUS_DEADLINE
            assert "no whole HELLO within 0.2 s" in refusal.reason
    assert server.status()["pending"] == 0


@over_each
def test_many_who_do_not_speak_hold_up_nobody(start: Start) -> None:
    server = start("--workers", "1", "--hello-timeout", "600")
    silent = [server.open() for _ in range(60)]
    for client in silent[::2]:
        client.send(b"GPUD")
    with transport.connect(server.address):
        assert server.status()["pending"] == len(silent)
    for client in silent:
        client.close()
    server.until(lambda status: status["pending"] == 0, "all of them forgotten")


@over_each
def test_connections_that_wait_are_bounded(start: Start) -> None:
    server = start("--workers", "1", "--max-pending", "4", "--hello-timeout", "600")
    silent = [server.open() for _ in range(4)]
    server.until(lambda status: status["pending"] == 4, "four that wait")
    with pytest.raises(transport.Refused) as refusal:
        transport.connect(server.address)
    assert refusal.value.status == wire.STATUS_BUSY
    assert refusal.value.retry_ms > 0
    more = [server.open() for _ in range(4)]
    server.until(lambda status: status["pending"] == 8, "twice as many")
    with server.open() as beyond:
        assert beyond.recv(1) == b""
    for client in silent + more:
        client.close()
    server.until(lambda status: status["pending"] == 0, "none that waits")
    with transport.connect(server.address):
        pass


def test_a_descriptor_sent_with_the_hello_is_not_kept(start: Start) -> None:
    server = start("--workers", "1")
    reading, writing = os.pipe()
    with server.open() as client:
        socket.send_fds(client, [wire.encode_hello(wire.Hello(deadline_ms=60_000))], [writing])
        os.close(writing)
        assert wire.decode_welcome(read_frame(client)).session
        assert os.read(reading, 1) == b""  # every copy is closed while the session lasts
    os.close(reading)


def lingering() -> tuple[socket.socket, socket.socket]:
    """A TCP socket whose last close would wait for a minute, and the other end, which reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 16))
    return near, far


@pytest.mark.parametrize("where", ["with HELLO", "after HELLO"])
def test_a_descriptor_that_is_slow_to_close_holds_nobody_up(start: Start, where: str) -> None:
    server = start("--workers", "1", "--memory", "64MiB")
    hello = wire.encode_hello(wire.Hello(memory=65 << 20))
    near, far = lingering()
    with far, server.open() as client:
        if where == "with HELLO":
            socket.send_fds(client, [hello], [near.fileno()])
        else:
            socket.send_fds(client, [hello[:16]], [])
            socket.send_fds(client, [hello[16:], b"x"], [near.fileno()])
        near.close()  # the last one is on its way
        assert read_refusal(client).status == wire.STATUS_OUT_OF_MEMORY
        with transport.connect(server.address, timeout=30.0):
            pass


# ---------------------------------------------------------------- users


CONNECT_AS = """
import os, sys
import transport  # while the files can still be read
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    with transport.connect(sys.argv[1], timeout=30) as connection:
        print("session", connection.welcome.session)
except transport.Refused as refusal:
    print(refusal.status, refusal.reason)
except transport.TransportError as error:
    print(type(error).__name__, error)
"""


def connect_as(uid: int, server: Server, spawn: Callable[..., subprocess.Popen[str]]) -> str:
    os.chmod(server.folder.parent, 0o755)  # noqa: PTH101
    os.chmod(server.folder, 0o755)  # noqa: PTH101
    process = spawn(CONNECT_AS, server.address, str(uid))
    out, _ = process.communicate(timeout=60)
    return str(out)


@root_only
def test_another_user_cannot_reach_the_socket(
    start: Start, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    server = start("--workers", "1")
    assert server.path.stat().st_mode & 0o777 == 0o600
    assert "Permission denied" in connect_as(NOBODY, server, spawn)


@root_only
def test_where_others_are_allowed_the_kernel_says_who_it_is(
    start: Start, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    server = start("--workers", "1", "--allow-uid", "12345")
    denied = connect_as(NOBODY, server, spawn)
    assert denied.startswith(f"{wire.STATUS_DENIED} user {NOBODY} may not use this server")
    assert connect_as(12345, server, spawn).startswith("session ")
    assert server.status()["refused"] == {"DENIED": 1}


# ---------------------------------------------------------------- queueing


@over_each
def test_who_finds_no_free_worker_waits_for_one(start: Start) -> None:
    server = start("--workers", "1")
    with transport.connect(server.address) as first:
        waiting = server.hello(name="second")
        server.until(lambda status: status["queued"] == 1, "one that queues")
        first.close()
        assert wire.decode_welcome(read_frame(waiting)).session
    waiting.close()


@over_each
def test_first_come_first_served(start: Start) -> None:
    server = start("--workers", "1")
    holder = transport.connect(server.address)
    waiting = []
    for number in range(1, 5):
        waiting.append(server.hello())
        server.until(lambda status, n=number: status["queued"] == n, f"{number} that queue")  # type: ignore[misc]
    last = 0
    holder.close()
    for client in waiting:
        session = wire.decode_welcome(read_frame(client)).session
        assert session > last
        last = session
        client.close()


@over_each
def test_the_wait_has_an_end(start: Start) -> None:
    server = start("--workers", "1", "--queue-timeout", "0.2")
    with transport.connect(server.address):
        with pytest.raises(transport.Refused) as refusal:
            transport.connect(server.address, timeout=60)
        assert refusal.value.status == wire.STATUS_BUSY
        assert refusal.value.retry_ms > 0
        assert "0.2 s" in refusal.value.reason
        assert server.status()["queued"] == 0


@over_each
def test_who_will_not_wait_is_told_at_once(start: Start) -> None:
    server = start("--workers", "1")
    with transport.connect(server.address), server.open() as client:
        client.sendall(wire.encode_hello(wire.Hello(deadline_ms=0)))
        assert read_refusal(client).status == wire.STATUS_BUSY


@over_each
def test_who_leaves_the_queue_is_forgotten_and_holds_nobody_up(start: Start) -> None:
    server = start("--workers", "1")
    holder = transport.connect(server.address)
    leaver = server.hello()
    server.until(lambda status: status["queued"] == 1, "one that queues")
    stayer = server.hello()
    server.until(lambda status: status["queued"] == 2, "two that queue")
    leaver.close()
    server.until(lambda status: status["queued"] == 1 and status["pending"] == 1, "one that is left")
    holder.close()
    assert wire.decode_welcome(read_frame(stayer)).session
    stayer.close()


@over_each
def test_who_speaks_out_of_turn_loses_its_place(start: Start) -> None:
    server = start("--workers", "1")
    with transport.connect(server.address), server.hello() as client:
        server.until(lambda status: status["queued"] == 1, "one that queues")
        client.send(b"hurry")
        assert wire.decode_refused(read_frame(client)).status == wire.STATUS_PROTOCOL


@over_each
def test_clients_by_the_dozen_all_get_their_turn(start: Start) -> None:
    server = start("--workers", "2")
    done: list[int] = []

    def visit() -> None:
        with transport.connect(server.address, timeout=60) as connection:
            assert connection.welcome is not None
            done.append(connection.welcome.session)

    visitors = [threading.Thread(target=visit) for _ in range(24)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(60)
    assert len(set(done)) == len(visitors)
    until(lambda: server.status()["workers"]["warm"] == 2, "both workers warm again")
