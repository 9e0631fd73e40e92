"""docs/protocol.md is enough to write a client from: one that has no code of ours runs sessions over TCP, and
is refused where the page says it is.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transport import independent as page
from tests.transport.independent import COPY_IN, COPY_OUT, Tcp

COUNT = 4096


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server's, with one worker: the next session gets the same one, or the one that took its place."""
    folder: Path = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "gpudisagg", "serve", "--listen", "tcp://127.0.0.1:0", "--workers", "1"]
    command += ["--spares", "0", "--memory", "64MiB", "--threads", "1", "--cache-dir", str(folder / "cache")]
    log = folder / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("gpudisagg: listening on tcp://"), log.read_text()
        yield int(line.rpartition(":")[2])
        process.terminate()
        assert process.wait(page.PATIENCE) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def client(port: int) -> Iterator[Tcp]:
    with Tcp("127.0.0.1", port) as made:
        assert made.welcome.features & page.DEVICE
        yield made


def mapped(client: Tcp) -> int:
    """An address with memory at it."""
    client.wait(client.map(client.welcome.window_base, client.welcome.granularity))
    assert not client.faulted
    return client.welcome.window_base


def run_scale(client: Tcp, image: bytes) -> None:
    """Uploads, launches, downloads."""
    address = mapped(client)
    client.copy_in(address, page.numbers(COUNT))
    (kernel,) = client.load(1, Tcp.STREAM, 0, len(image), image)
    assert kernel.name == "scale"
    client.launch(kernel, COUNT // 256, 256, page.scale_params(address, 7))
    assert client.copy_out(address, 4 * COUNT) == page.scaled(COUNT, 7)


def until_hung_up(client: Tcp) -> None:
    """All that still comes, to the end."""
    with contextlib.suppress(page.Gone):
        client.until(lambda: False)


@pytest.mark.parametrize("image", [page.PTX, page.CUDA], ids=["PTX", "CUDA C++"])
def test_a_session_from_hello_to_close(client: Tcp, image: bytes) -> None:
    run_scale(client, image)
    client.finish()
    assert not client.faulted and not client.replies


def test_several_commands_in_one_segment_and_a_command_in_many(client: Tcp) -> None:
    address = mapped(client)
    held: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "send", lambda message, payload=b"": held.append(message + payload))
        for place in range(8):
            client.copy_in(address + 4 * COUNT * place, page.scaled(COUNT, place))
    stream = b"".join(held)
    for begin in range(0, len(stream), 1000):
        client.socket.sendall(stream[begin : begin + 1000])
    expected = b"".join(page.scaled(COUNT, place) for place in range(8))
    assert client.copy_out(address, 8 * 4 * COUNT) == expected
    client.finish()


def test_a_region_that_was_added(client: Tcp) -> None:
    address = mapped(client)
    data = page.numbers(COUNT)
    client.add_region(5, 4 * COUNT)
    client.copy(COPY_IN, address, 5, 0, len(data), data)
    assert client.copy_out(address, 400, region=5, offset=16) == data[:400]
    client.wait(client.drop_region(5))
    assert not client.faulted
    client.copy(COPY_IN, address, 5, 0, 4, b"gone")
    client.wait(client.posted)
    fault = client.fault()
    assert (fault.sequence, fault.status, fault.op) == (client.posted, page.NOT_FOUND, COPY_IN)


@pytest.mark.parametrize("op", [COPY_IN, COPY_OUT], ids=["COPY_IN", "COPY_OUT"])
def test_past_a_regions_end_is_refused_and_the_session_says_so_once(client: Tcp, op: int) -> None:
    address = mapped(client)
    client.add_region(0, page.PAGE)
    size = 64
    payload = bytes(size) if op == COPY_IN else b""
    failed = client.copy(op, address, 0, page.PAGE - 32, size, payload)
    later = client.copy(COPY_IN, address, 0, 0, 4, b"late")  # what follows is read in step, and not executed
    client.until(lambda: client.completed >= later)
    fault = client.fault()
    assert client.faulted and (fault.sequence, fault.status, fault.op) == (failed, page.INVALID, op)
    assert "region 0" in fault.reason
    client.finish()
    assert not client.replies


@pytest.mark.parametrize("access", [page.READ, page.WRITE])
def test_what_a_region_is_not_for_is_refused(client: Tcp, access: int) -> None:
    address = mapped(client)
    client.add_region(0, page.PAGE, access)
    op, payload = (COPY_OUT, b"") if access == page.READ else (COPY_IN, bytes(64))
    client.wait(client.copy(op, address, 0, 0, 64, payload))
    assert client.fault().status == page.INVALID


def test_what_is_out_of_step_ends_the_session_with_bye(client: Tcp) -> None:
    client.posted += 1  # so that one seems to have been lost
    client.map(client.welcome.window_base, client.welcome.granularity)
    body = client.reply(page.BYE)
    assert int.from_bytes(body[:4], "little") == page.PROTOCOL and len(body) > 8
    until_hung_up(client)


def test_the_server_is_there_for_the_next_whatever_the_last_one_did(port: int) -> None:
    for _ in range(3):
        with Tcp("127.0.0.1", port) as client:
            address = mapped(client)
            # A payload announced and cut short by the end.
            client.send(page.MESSAGE_HEAD.pack(0, 48, COPY_IN, 0, 0, client.posted + 1))
            client.send(struct.pack("<QQQII", address, 0, 1 << 20, Tcp.STREAM, 0) + bytes(1000))
    with Tcp("127.0.0.1", port) as client:
        run_scale(client, page.PTX)
        client.finish()


def test_after_close_comes_nothing_but_the_end(client: Tcp) -> None:
    client.finish()
    client.socket.shutdown(socket.SHUT_WR)
    client.socket.settimeout(page.PATIENCE)
    assert client.socket.recv(1) == b""
