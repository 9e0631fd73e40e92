"""Which way auto:// takes between two hosts, and on one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.link import Link
from tests.network.served import served

pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow

PICKED = """
data = np.arange(4096, dtype=np.uint32)
array = gpu.asarray(data)
add(array, 3)
assert np.array_equal(array.get(), data + 3)
ways = [list(way) for way in gpu.capabilities.ways]
gpu.close()
tell(transport=gpu.capabilities.transport, ways=ways)
"""


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder whose path is short: a socket's has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gpud-") as folder:
        yield Path(folder)


def auto(address: str) -> str:
    return address.replace("tcp://", "auto://", 1)


def test_between_hosts_it_is_tcp(link: Link, tmp_path: Path) -> None:
    with served(link, tmp_path) as server:
        told = server.client(PICKED, auto(server.addresses[0])).told()
    assert told["transport"] == "tcp"
    assert told["ways"] == [
        ["shm", "the server listens on no unix:// address"],
        ["verbs", "the server listens on no rdma:// address"],
        ["tcp", "picked"],
    ]


@pytest.mark.netem("delay 20ms loss 2%")
def test_over_a_bad_network_too(link: Link, tmp_path: Path) -> None:
    with served(link, tmp_path) as server:
        assert server.client(PICKED, auto(server.addresses[0])).told()["transport"] == "tcp"


def test_a_socket_that_both_reach_is_shared_memory(link: Link, tmp_path: Path, sockets: Path) -> None:
    """Two networks on one host with one file system: as two containers that share a folder."""
    unix = f"unix://{sockets}/s.sock"
    with served(link, tmp_path, f"tcp://{link.far.address}:0", unix) as server:
        for end in link.near, link.far:
            told = server.client(PICKED, auto(server.addresses[0]), end).told()
            assert (told["transport"], told["ways"]) == ("shm", [["shm", "picked"]])


def test_a_socket_that_one_does_not_reach_is_passed_over(link: Link, tmp_path: Path, sockets: Path) -> None:
    with served(link, tmp_path, f"tcp://{link.far.address}:0", f"unix://{sockets}/s.sock") as server:
        hidden = sockets / "hidden"
        (sockets / "s.sock").rename(hidden)
        told = server.client(PICKED, auto(server.addresses[0])).told()
        hidden.rename(sockets / "s.sock")
    assert told["transport"] == "tcp"
    assert told["ways"][0][1].startswith("nobody listens on unix://")
    assert told["ways"][2] == ["tcp", "picked"]


def test_a_server_on_all_addresses_is_reached_by_the_one_that_was_asked_for(
    link: Link, tmp_path: Path
) -> None:
    with served(link, tmp_path, "tcp://0.0.0.0:0") as server:
        port = server.addresses[0].rpartition(":")[2]
        for end, host in (link.near, link.far.address), (link.far, "127.0.0.1"):
            assert server.client(PICKED, f"auto://{host}:{port}", end).told()["transport"] == "tcp"
