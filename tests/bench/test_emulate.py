"""An emulated link: its description, and that it changes when bytes arrive, and nothing else about them."""

from __future__ import annotations

import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import emulate

PATIENCE = 30.0
TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3}
RATES = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9, "Tbps": 1e12}


@given(
    st.integers(0, 9999),
    st.sampled_from(sorted(TIMES)),
    st.integers(1, 9999),
    st.sampled_from(sorted(RATES)),
    st.booleans(),
    st.sampled_from(["", " "]),
)
def test_a_description_means_what_its_numbers_and_units_say(
    time_: int, time_unit: str, rate: int, rate_unit: str, turned: bool, space: str
) -> None:
    parts = [f"rtt={time_}{space}{time_unit}", f"bw={space}{rate}{rate_unit}"]
    link = emulate.parse(f"{space},{space}".join(reversed(parts) if turned else parts))
    assert link.rtt == pytest.approx(time_ * TIMES[time_unit])
    assert link.bandwidth == pytest.approx(rate * RATES[rate_unit])


@given(st.floats(0, 1), st.one_of(st.none(), st.floats(1, 1e12)))
def test_what_a_link_says_of_itself_parses_to_it(rtt: float, bandwidth: float | None) -> None:
    again = emulate.parse(str(emulate.Link(rtt, bandwidth)))
    assert again.rtt == pytest.approx(rtt, abs=1e-9)
    if bandwidth is None:
        assert again.bandwidth is None
    else:
        assert again.bandwidth == pytest.approx(bandwidth, abs=1)


@given(st.text(max_size=20))
@example("")
@example("rtt=20")
@example("rtt=20us,rtt=20us")
@example("bw=0Gbps")
@example("rtt=-1us")
@example("rtt=20usec")
@example("loss=1%")
@example("rtt=11s")
def test_anything_else_is_refused_with_words_that_show_what_is_right(text: str) -> None:
    try:
        emulate.parse(text)
    except ValueError as error:
        assert "rtt" in str(error) or "bw" in str(error)
    else:
        assert text.lstrip().startswith(("rtt", "bw"))


@given(st.floats(0, 10), st.one_of(st.none(), st.floats(1, 1e13)))
def test_what_is_under_way_is_bounded(rtt: float, bandwidth: float | None) -> None:
    delay, rate, buffer = map(int, emulate.Link(rtt, bandwidth).arguments)
    assert 0 <= delay <= 5 * 10**9
    assert rate >= 0
    assert 1 << 18 <= buffer <= 1 << 26


@contextmanager
def ends(link: emulate.Link) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of one connection over the link."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with emulate.proxy("127.0.0.1", listener.getsockname()[1], link) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as near:
                far, _ = listener.accept()
                with far:
                    far.settimeout(PATIENCE)
                    yield near, far


def receive(end: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = end.recv(min(1 << 20, size - len(got)))
        assert part, f"the connection ended after {len(got)} of {size} bytes"
        got += part
    return bytes(got)


@pytest.mark.parametrize("link", ["rtt=0us", "rtt=2ms", "rtt=200us,bw=2Gbps"])
def test_bytes_arrive_unchanged_and_in_order_both_ways_at_once(link: str) -> None:
    there, back = (np.random.default_rng(seed).bytes(9_000_001) for seed in (1, 2))
    with ends(emulate.parse(link)) as (near, far):
        senders = [
            threading.Thread(target=end.sendall, args=(data,)) for end, data in ((near, there), (far, back))
        ]
        for sender in senders:
            sender.start()
        answered: list[bytes] = []
        reader = threading.Thread(target=lambda: answered.append(receive(near, len(back))))
        reader.start()
        assert receive(far, len(there)) == there
        for thread in (*senders, reader):
            thread.join(PATIENCE)
        assert answered == [back]


def test_nothing_arrives_before_its_time() -> None:
    with ends(emulate.Link(rtt=0.2)) as (near, far):
        for _ in range(3):
            begin = time.monotonic()
            near.sendall(b"a")
            assert receive(far, 1) == b"a"
            assert time.monotonic() - begin >= 0.1
            far.sendall(b"b")
            assert receive(near, 1) == b"b"
            assert time.monotonic() - begin >= 0.2


def test_bytes_under_way_do_not_wait_for_each_other() -> None:
    """A delay, not a stop-and-wait: ten messages sent at once take one delay, not ten."""
    with ends(emulate.Link(rtt=2.0)) as (near, far):
        begin = time.monotonic()
        for number in range(10):
            near.sendall(bytes([number]))
            time.sleep(0.01)
        assert receive(far, 10) == bytes(range(10))
        assert 1.0 <= time.monotonic() - begin < 10 * 1.0


def test_a_link_carries_no_more_than_its_rate() -> None:
    size = 2_500_000
    with ends(emulate.parse("bw=100Mbps")) as (near, far):
        begin = time.monotonic()
        sender = threading.Thread(target=near.sendall, args=(bytes(size),))
        sender.start()
        receive(far, size)
        assert time.monotonic() - begin >= size * 8 / 100e6
        sender.join(PATIENCE)


@pytest.mark.parametrize("first", ["near", "far"])
def test_when_one_side_ends_the_other_has_all_its_bytes_and_then_the_end(first: str) -> None:
    data = bytes(range(256)) * 4000
    with ends(emulate.Link(rtt=0.01)) as (near, far):
        one, other = (near, far) if first == "near" else (far, near)
        sender = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(socket.SHUT_WR)))
        sender.start()
        assert receive(other, len(data)) == data
        assert other.recv(1) == b""
        other.sendall(b"still this way")
        assert receive(one, 14) == b"still this way"
        sender.join(PATIENCE)


def test_a_reader_that_does_not_read_stops_the_sender_and_not_the_memory() -> None:
    """With no one reading, the link takes what its buffer and the sockets hold, and then nothing more."""
    with ends(emulate.parse("rtt=1ms,bw=1Gbps")) as (near, _far):
        near.setblocking(False)
        sent, piece = 0, bytes(1 << 16)
        while select.select([], [near], [], 1.0)[1]:
            sent += near.send(piece)
            assert sent < 256 << 20, "something holds all of it"


def test_the_proxy_ends_with_whoever_started_it() -> None:
    command = [str(emulate.program()), "127.0.0.1", "1", *emulate.Link().arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        # Nobody listens behind it: whoever connects is told at once, by the end of the connection.
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as near:
            assert near.recv(1) == b""
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_only_tcp_addresses_go_over_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(emulate.VARIABLE, "rtt=1ms")
    with emulate.reached("unix:///run/x.sock") as address:
        assert address == "unix:///run/x.sock"
    with emulate.reached("tcp://127.0.0.1:9") as address:
        assert address.startswith("tcp://127.0.0.1:")
        assert address != "tcp://127.0.0.1:9"
    monkeypatch.delenv(emulate.VARIABLE)
    with emulate.reached("tcp://127.0.0.1:9") as address:
        assert address == "tcp://127.0.0.1:9"
