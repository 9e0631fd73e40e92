"""Whatever happens to a tcp session's bytes on their way: the right result or a typed error, in bounded time,
and the server is as before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpudisagg
from tests.faults.proxy import KINDS, Fault, Proxy, Splitter
from tests.server.process import Server, until
from transport import wire

WORKERS = 6
PATIENCE = 60.0  # seconds, for what must succeed
TIMEOUT = 1.5  # seconds, of a session that something is done to: what stalls ends so late

KERNEL = """
extern "C" __global__ void twice(int n, float* x) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= 2;
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("faults")
    flags = ("--workers", str(WORKERS), "--threads", "1", "--memory", "64MiB", "--host-memory", "64MiB")
    one = Server(folder, flags, {}, listen="tcp://127.0.0.1:0").wait_ready()
    try:
        assert work(one.address, PATIENCE)  # compiles once, for the cache on disk
        yield one
    finally:
        assert one.stop() == 0


def work(address: str, timeout: float) -> bool:
    """A whole session: whether every byte of what came back is right."""
    points = np.arange(5000, dtype=np.float32)
    with gpudisagg.connect(address, memory="8MiB", host_memory="8MiB", timeout=timeout) as gpu:
        twice = gpu.compile(KERNEL)["twice"]
        x = gpu.asarray(points)
        twice[20, 256](points.size, x)
        shared = gpu.host_array(points[:1000])
        y = gpu.asarray(shared)
        twice[4, 256](1000, y)
        y.get(out=shared)
        event = gpu.event()
        event.record()
        event.synchronize()
        right = np.array_equal(x.get(), points * 2)
        return right and np.array_equal(shared, points[:1000] * 2)


def outcome(server: Server, fault: Fault) -> tuple[Fault, str, bool]:
    """What became of a session that `fault` happened to: "right", "wrong" or the error's name; and whether
    the fault's place was reached.
    """
    port = int(server.address.rpartition(":")[2])
    with Proxy(("127.0.0.1", port), fault) as proxy:
        try:
            said = "right" if work(proxy.address, TIMEOUT) else "wrong"
        except gpudisagg.GpuDisaggError as error:
            said = type(error).__name__
            assert str(error)
        return fault, said, proxy.happened.is_set()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def unharmed(server: Server) -> Iterator[None]:
    """Afterwards the server has as many warm workers and open descriptors as before, and serves."""
    server.until_warm(WORKERS)
    before = descriptors(server.process.pid)
    yield
    server.until_warm(WORKERS)
    until(lambda: descriptors(server.process.pid) <= before, "the daemon's descriptors are closed")
    assert work(server.address, PATIENCE)


def places(sizes: list[int], everywhere: bool) -> Iterator[tuple[int, int]]:
    """(unit, byte): each unit's beginning, and where `everywhere`, its middle and its last byte."""
    for unit, size in enumerate(sizes):
        yield from ((unit, at) for at in ({0, size // 2, size - 1} if everywhere else {0}))


@pytest.fixture(scope="module")
def script(server: Server) -> dict[bool, list[int]]:
    """Sizes of the units of an undisturbed session, each way."""
    port = int(server.address.rpartition(":")[2])
    with Proxy(("127.0.0.1", port)) as proxy:
        assert work(proxy.address, PATIENCE)
        return {upward: list(sizes) for upward, sizes in proxy.units.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upward", [True, False], ids=["from the client", "to the client"])
def test_a_fault_at_any_border_and_inside(
    server: Server, script: dict[bool, list[int]], kind: str, upward: bool
) -> None:
    inside = kind in ("reset", "hang_up", "truncate")
    faults = [Fault(kind, upward, unit, at) for unit, at in places(script[upward], inside)]
    if kind == "corrupt":  # in what both sides read before they believe the rest
        faults = [Fault(kind, upward, n, at) for n in range(len(script[upward])) for at in (0, 4, 6, 12)]
    with unharmed(server), concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(lambda fault: outcome(server, fault), faults))
    assert any(happened for _, _, happened in results)
    assert not [fault for fault, said, _ in results if said == "wrong"]
    if kind == "delay":
        assert {said for _, said, _ in results} == {"right"}


@settings(max_examples=15)
@given(data=st.data())
def test_faults_anywhere(server: Server, script: dict[bool, list[int]], data: st.DataObject) -> None:
    upward = data.draw(st.booleans())
    unit = data.draw(st.integers(0, len(script[upward]) - 1))
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind != "corrupt"]))
    at = data.draw(st.integers(0, script[upward][unit] - 1))
    assert outcome(server, Fault(kind, upward, unit, at))[1] != "wrong"


def test_half_a_hello_holds_nobody_up(server: Server) -> None:
    host, port = server.address.removeprefix("tcp://").split(":")
    hello = wire.encode_hello(wire.Hello(deadline_ms=1000))
    with unharmed(server), contextlib.ExitStack() as stack:
        for size in range(0, len(hello), 7):
            half = stack.enter_context(socket.create_connection((host, int(port))))
            half.sendall(hello[:size])
        assert work(server.address, PATIENCE)


@given(pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=20))
def test_the_splitter_loses_nothing(pieces: list[bytes]) -> None:
    hello = wire.encode_hello(wire.Hello(name="x"))
    write = [wire.encode(wire.OP_DATA, 0, n + 1, piece) for n, piece in enumerate(pieces)]
    stream = b"".join([hello, *write])
    splitter = Splitter(upward=True)
    units = []
    for at in range(0, len(stream), 33):
        units += splitter.feed(stream[at : at + 33])
    assert units == [hello, *write]
    assert splitter.rest() == b""
