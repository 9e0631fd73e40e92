"""Sessions between two hosts: over a network that delays and loses, and over one whose cable is cut."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.network.link import Link
from tests.network.served import served

pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow

# A peer that answers nothing is given up after some 10 s (docs/protocol.md); the rest is for slow machines.
SEEN = 45.0

# Uploads, launches and downloads, of sizes around what is sent in one piece.
WORKS = """
for size in (256, 4096, 65536):
    data = np.arange(size, dtype=np.uint32)
    array = gpu.asarray(data)
    for more in range(1, 9):
        add(array, more)
    assert np.array_equal(array.get(), data + 36), size
    host = gpu.host_array(data)
    array.set(host)
    add(array, 1)
    assert np.array_equal(array.get(), data + 1), size
gpu.close()
tell(transport=gpu.capabilities.transport)
"""

# Does one thing over and over, from before `at_work` until it fails; tells what the failure was.
ENDLESS = """
data = np.ones(1 << 18, np.uint32)
array = gpu.asarray(data)
host = gpu.host_array(data)
gpu.synchronize()
tell(state="at_work")
try:
    while True:
        {work}
except gpudisagg.GpuDisaggError as error:
    tell(error=type(error).__name__, text=str(error))
try:
    gpu.synchronize()
except gpudisagg.GpuDisaggError as error:
    tell(error=type(error).__name__, text=str(error))
"""
WORK = {
    "uploads": "array.set(data)",
    "uploads of host arrays": "array.set(host); gpu.synchronize()",
    "downloads": "array.get()",
    "launches": "add(array, 1)",
    "round trips": "add(array, 1); gpu.synchronize()",
}


@pytest.mark.netem("delay 20ms loss 2%")
def test_what_is_delayed_and_lost_changes_no_result(link: Link, tmp_path: Path) -> None:
    with served(link, tmp_path) as server:
        assert server.client(WORKS).told() == {"transport": "tcp"}
        server.until_free(SEEN)


@pytest.mark.netem("delay 20ms 15ms reorder 25% duplicate 5%")
def test_nor_does_what_is_reordered_and_duplicated(link: Link, tmp_path: Path) -> None:
    with served(link, tmp_path) as server:
        assert server.client(WORKS).told() == {"transport": "tcp"}


@pytest.mark.parametrize("work", WORK)
def test_a_cut_ends_a_session_at_both_ends(link: Link, tmp_path: Path, work: str) -> None:
    with served(link, tmp_path) as server:
        client = server.client(ENDLESS.replace("{work}", WORK[work]))
        assert client.told() == {"state": "at_work"}
        server.until(lambda status: len(status["sessions"]) == 1, SEEN)
        cut = time.monotonic()
        link.cut()
        ended = client.told(SEEN)
        assert ended["error"] == "SessionLost", ended
        assert client.told(SEEN)["error"] == "SessionLost"  # and stays so
        server.until_free(SEEN)
        assert time.monotonic() - cut < SEEN
        link.mend()
        assert server.client(WORKS).told() == {"transport": "tcp"}


def test_a_client_that_is_cut_off_while_it_does_nothing_frees_its_worker(link: Link, tmp_path: Path) -> None:
    idle = "tell(state='at_work')\ntime.sleep(1000)"
    with served(link, tmp_path) as server:
        assert server.client(idle).told() == {"state": "at_work"}
        link.cut()
        server.until_free(SEEN)


def test_a_cut_that_is_mended_soon_is_only_a_delay(link: Link, tmp_path: Path) -> None:
    program = """
data = np.arange(1 << 18, dtype=np.uint32)
array = gpu.asarray(data)
gpu.synchronize()
tell(state="at_work")
sys.stdout.flush()
end = time.monotonic() + 8
rounds = 0
while time.monotonic() < end:
    array.set(data)
    add(array, rounds)
    assert np.array_equal(array.get(), data + np.uint32(rounds))
    rounds += 1
gpu.close()
tell(rounds=rounds)
"""
    with served(link, tmp_path) as server:
        client = server.client(program)
        assert client.told() == {"state": "at_work"}
        link.cut()
        time.sleep(2)  # less than it takes to give up
        link.mend()
        assert client.told()["rounds"] > 0


def test_a_wait_whose_time_is_up_first_says_so_and_the_session_can_be_closed(
    link: Link, tmp_path: Path
) -> None:
    program = """
array = gpu.zeros(1024, np.uint32)
gpu.synchronize()
gpu.timeout = 3
tell(state="at_work")
try:
    while True:
        array.get()
except gpudisagg.GpuDisaggError as error:
    tell(error=type(error).__name__)
gpu.close()
tell(state="closed")
"""
    with served(link, tmp_path) as server:
        client = server.client(program)
        assert client.told() == {"state": "at_work"}
        link.cut()
        assert client.told(SEEN) == {"error": "DeadlineExceeded"}
        assert client.told(SEEN) == {"state": "closed"}
        server.until_free(SEEN)
