"""The links that the other tests here are run over."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from tests.network.link import CABLE, Link, linked

# Tells its port, then sends back what it gets.
ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    while got := connection.recv(1 << 16):
        connection.sendall(got)
"""

# Sends as many bytes as a line of input says; tells how many came back, whether all the same, and how fast.
CALL = """
import socket, sys, threading, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
for line in sys.stdin:
    sent = bytes(range(256)) * (int(line) // 256)
    began = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(sent,))
    sender.start()
    got = b""
    while len(got) < len(sent):
        part = connection.recv(1 << 20)
        if not part:
            break
        got += part
    sender.join()
    print(len(got), got == sent, time.monotonic() - began, flush=True)
"""


def echoing(link: Link) -> subprocess.Popen[str]:
    """A caller at the near end, connected to an echo at the far one."""
    pipe = subprocess.PIPE
    server = link.far.popen([sys.executable, "-c", ECHO, link.far.address], stdout=pipe, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    call = [sys.executable, "-c", CALL, link.far.address, port]
    return link.near.popen(call, stdin=pipe, stdout=pipe, text=True)


def exchange(caller: subprocess.Popen[str], size: int) -> tuple[int, bool, float]:
    assert caller.stdin is not None
    assert caller.stdout is not None
    print(size, file=caller.stdin, flush=True)
    count, same, took = caller.stdout.readline().split()
    return int(count), same == "True", float(took)


def test_a_process_at_one_end_reaches_one_at_the_other(link: Link) -> None:
    assert exchange(echoing(link), 1 << 20)[:2] == (1 << 20, True)


def test_an_end_reaches_nothing_else(link: Link) -> None:
    connect = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=20)"
    with pytest.raises(RuntimeError, match="Network is unreachable"):
        link.near.run([sys.executable, "-c", connect])


def test_what_was_started_ends_with_the_link() -> None:
    with linked() as link:
        caller = echoing(link)
        names = {link.near.name, link.far.name}
        assert caller.poll() is None
    assert caller.poll() is not None
    assert not names & set(os.listdir("/run/netns"))


def test_a_cut_is_silent_and_can_be_mended(link: Link) -> None:
    caller = echoing(link)
    exchange(caller, 256)
    link.cut()
    assert caller.stdin is not None
    print(256, file=caller.stdin, flush=True)
    assert caller.stdout is not None
    assert not select.select([caller.stdout], [], [], 0.5)[0]
    assert caller.poll() is None  # it waits, and was told nothing
    link.mend()
    count, same, took = caller.stdout.readline().split()
    assert (int(count), same) == (256, "True")
    assert float(took) >= 0.5


@pytest.mark.netem("delay 20ms")
def test_a_delay_is_paid_in_both_directions(link: Link) -> None:
    caller = echoing(link)
    assert min(exchange(caller, 256)[2] for _ in range(3)) >= 0.040


@pytest.mark.netem("delay 2ms loss 5%")
def test_what_is_lost_is_sent_again(link: Link) -> None:
    assert exchange(echoing(link), 1 << 20)[:2] == (1 << 20, True)
    (statistics,) = link.near.run(["tc", "-s", "qdisc", "show", "dev", CABLE]).split("dropped")[1:]
    assert int(statistics.split(",")[0]) > 0
