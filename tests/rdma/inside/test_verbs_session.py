"""Whole sessions over verbs: bytes both ways, kernels, faults, deaths, and machines that cannot or may not.
After each of them the kernel holds no more verbs objects than before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rdma.inside.serving import PATIENCE, serving

pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow
Objects = Callable[[], dict[str, int]]
# As a process that may lock no more memory than most may. Root may lock any: so it drops the right to.
LOCKS_LITTLE = ("setpriv", "--bounding-set", "-ipc_lock", "prlimit", "--memlock=65536:65536")

PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 values, .param .u32 more)
{ .reg .u64 %a, %o; .reg .u32 %b, %n, %t, %v, %m;
  ld.param.u64 %a, [values]; ld.param.u32 %m, [more];
  mov.u32 %b, %ctaid.x; mov.u32 %n, %ntid.x; mov.u32 %t, %tid.x;
  mad.lo.u32 %t, %b, %n, %t; mul.wide.u32 %o, %t, 4; add.u64 %a, %a, %o;
  ld.global.u32 %v, [%a]; add.u32 %v, %v, %m; st.global.u32 [%a], %v; ret; }
"""

# A client that holds a session with registered memory, and says so.
HOLDS = """
import sys
import transport
with transport.connect(sys.argv[1], timeout=100) as connection:
    region = connection.create_region(1 << 20)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def addresses(rdma_address: str) -> Iterator[list[str]]:
    """(rdma, tcp) of a server."""
    with serving(f"rdma://{rdma_address}:0", f"tcp://{rdma_address}:0") as found:
        yield found


@pytest.fixture
def rdma(addresses: list[str]) -> str:
    return addresses[0]


@pytest.fixture
def auto(addresses: list[str]) -> str:
    """The same server, to be reached by what there is."""
    return addresses[1].replace("tcp", "auto", 1)


@pytest.fixture
def nothing_stays(addresses: list[str], rdma_objects: Objects) -> Iterator[None]:
    """Of verbs objects, once both sides have let go."""
    before = rdma_objects()
    yield
    end = time.monotonic() + 30
    while (after := rdma_objects()) != before and time.monotonic() < end:
        time.sleep(0.2)
    assert after == before


@pytest.fixture
def gpu(rdma: str, nothing_stays: None) -> Iterator[Any]:
    import gpudisagg

    with gpudisagg.connect(rdma, timeout=PATIENCE) as session:
        yield session


# ---------------------------------------------------------------- bytes


def test_arrays_of_odd_sizes_come_back(gpu: Any) -> None:
    import numpy as np

    assert gpu.capabilities.transport == "verbs"
    assert gpu.capabilities.ways == (("verbs", "picked"),)
    assert gpu.capabilities.gpudirect == ""  # nothing was copied yet
    assert not gpu.capabilities.host_map
    random = np.random.default_rng(1)
    for size in (1, 7, 2047, 2048, 2049, 4097, 131_071, 196_609, (1 << 20) + 1, (5 << 20) + 3):
        data = random.integers(0, 256, size, dtype=np.uint8)
        array = gpu.asarray(data)
        assert np.array_equal(array.get(), data)
        if size > 2:
            assert np.array_equal(array[1:-1].get(), data[1:-1])
    assert gpu.capabilities.gpudirect == "host memory"


def test_host_arrays_are_read_and_written_by_the_worker(gpu: Any) -> None:
    import numpy as np

    data = np.random.default_rng(2).random(300_001)
    host = gpu.host_array(data)
    array = gpu.empty(data.shape)
    array.set(host)
    host[...] = 0
    array.get(out=host)
    assert np.array_equal(host, data)
    part = gpu.host_zeros(1001)
    array[17:1018].get(out=part)
    assert np.array_equal(part, data[17:1018])
    del host, part
    assert np.array_equal(array.get(), data)


# ---------------------------------------------------------------- kernels, faults, limits


def test_a_kernel_between_two_events_and_one_that_faults(rdma: str, nothing_stays: None) -> None:
    import numpy as np

    import gpudisagg

    with gpudisagg.connect(rdma, timeout=PATIENCE) as gpu:
        add = gpu.compile(PTX)["add"]
        array = gpu.asarray(np.arange(1 << 14, dtype=np.uint32))
        begin, end = gpu.event(), gpu.event()
        begin.record()
        for _ in range(300):  # more than either side has receives
            add[64, 256](array, np.uint32(3))
        end.record()
        assert np.array_equal(array.get(), np.arange(1 << 14) + 900)
        assert gpudisagg.get_elapsed_time(begin, end) > 0
        add[1, 32](np.uint64(64), np.uint32(1))
        with pytest.raises(gpudisagg.DeviceFault, match="add"):
            gpu.synchronize()
    with gpudisagg.connect(rdma, timeout=PATIENCE) as gpu:  # by the worker that took its place
        assert gpu.zeros(3).get().tolist() == [0, 0, 0]


def test_more_than_the_session_may_have_is_out_of_memory(rdma: str, nothing_stays: None) -> None:
    import gpudisagg

    with gpudisagg.connect(rdma, memory="8MiB", host_memory="16MiB", timeout=PATIENCE) as gpu:
        with pytest.raises(gpudisagg.OutOfMemory):
            gpu.empty(9 << 20, "u1")
        with pytest.raises(gpudisagg.OutOfMemory):
            gpu.host_empty(17 << 20, "u1")
        assert gpu.zeros(3).get().tolist() == [0, 0, 0]


# ---------------------------------------------------------------- deaths


@contextlib.contextmanager
def holder(address: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLDS, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_clients_objects_go_and_the_next_is_served(rdma: str, nothing_stays: None) -> None:
    import gpudisagg

    with holder(rdma) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "held\n"
        client.kill()
        with gpudisagg.connect(rdma, timeout=PATIENCE) as gpu:
            assert gpu.zeros(3).get().tolist() == [0, 0, 0]


def worker_of(address: str) -> int:
    """The worker process of the server that listens there: the one that holds a device of verbs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"gpudisagg.server.worker" in command:
                opened = {str(one.readlink()) for one in (folder / "fd").iterdir()}
                if any("uverbs" in one for one in opened):
                    found.append(int(folder.name))
    (worker,) = found
    return worker


def test_a_killed_worker_is_a_lost_session_and_its_objects_go(rdma: str, nothing_stays: None) -> None:
    import numpy as np

    import gpudisagg

    with gpudisagg.connect(rdma, timeout=PATIENCE) as gpu:
        array = gpu.asarray(np.ones(100_000))
        os.kill(worker_of(rdma), signal.SIGKILL)
        with pytest.raises(gpudisagg.SessionLost):
            for _ in range(1000):
                array.get()
    with gpudisagg.connect(rdma, timeout=PATIENCE) as gpu:
        assert gpu.zeros(3).get().tolist() == [0, 0, 0]


# ---------------------------------------------------------------- where it cannot be had


def test_a_client_without_the_device_says_so_and_auto_takes_tcp(
    rdma: str, auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpudisagg

    monkeypatch.setenv("GPUDISAGG_RDMA_DEVICE", "mlx5_7")
    with pytest.raises(gpudisagg.SessionRefused, match="mlx5_7"):
        gpudisagg.connect(rdma, timeout=PATIENCE)
    with gpudisagg.connect(auto, timeout=PATIENCE) as gpu:
        shm, verbs, tcp = gpu.capabilities.ways
        assert shm.transport == "shm" and "no unix://" in shm.why
        assert verbs.transport == "verbs" and "mlx5_7" in verbs.why
        assert tcp == ("tcp", "picked")
        assert gpu.zeros(3).get().tolist() == [0, 0, 0]


def test_a_client_that_may_lock_too_little_is_told_what_to_raise(rdma: str, nothing_stays: None) -> None:
    with holder(rdma, *LOCKS_LITTLE) as client:
        _, errors = client.communicate(timeout=PATIENCE)
        assert client.returncode == 1
        assert "raise `ulimit -l`" in errors and "64 KiB" in errors


def test_a_server_that_may_lock_too_little_refuses_verbs_and_auto_takes_tcp(
    rdma_address: str, rdma_objects: Objects
) -> None:
    import gpudisagg

    before = rdma_objects()
    listen = (f"rdma://{rdma_address}:0", f"tcp://{rdma_address}:0")
    with serving(*listen, before=LOCKS_LITTLE) as (rdma, tcp):
        with pytest.raises(gpudisagg.SessionRefused, match="raise `ulimit -l`"):
            gpudisagg.connect(rdma, timeout=PATIENCE)
        with gpudisagg.connect(tcp.replace("tcp", "auto", 1), timeout=PATIENCE) as gpu:
            *_, verbs, last = gpu.capabilities.ways
            assert verbs.transport == "verbs" and "ulimit -l" in verbs.why
            assert last == ("tcp", "picked")
            assert gpu.zeros(3).get().tolist() == [0, 0, 0]
    assert rdma_objects() == before


def test_a_server_without_the_device_does_not_start(rdma_address: str) -> None:
    command = [sys.executable, "-m", "gpudisagg", "serve", "--allow-network"]
    done = subprocess.run(
        [*command, "--listen", f"rdma://{rdma_address}:0"],
        env={**os.environ, "GPUDISAGG_RDMA_DEVICE": "mlx5_7"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert "mlx5_7" in done.stderr and "tcp://" in done.stderr


def test_doctor_says_by_which_way_and_what_the_bytes_reach(rdma: str, nothing_stays: None) -> None:
    from gpudisagg.cli.doctor import _server

    found = {finding.what: finding for finding in _server(rdma)}
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["way verbs"].detail == "picked"
    assert "host memory" in found["GPUDirect"].detail
    assert "GB/s" in found["speed"].detail
