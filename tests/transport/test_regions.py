"""Memory that both sides reach: bytes both ways, bounds, ends, descriptors."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transport.conftest import Endpoint
from transport import Closed, Connection, PeerGone, ProtocolError, Stage, TransportError, wire

Pair = tuple[Connection, Connection]
PAGE = os.sysconf("SC_PAGE_SIZE")


def announced(pair: Pair, size: int, **how: Any) -> Any:
    """A region that the worker has taken in."""
    client, worker = pair
    region = client.create_region(size, **how)
    client.send(b"")
    assert worker.recv(30) == b""
    return region


def test_bytes_go_both_ways(reaching_pair: Pair) -> None:
    _, worker = reaching_pair
    region = announced(reaching_pair, 10 * PAGE)
    assert region.array.dtype == np.uint8 and region.array.shape == (10 * PAGE,)
    assert not region.array.any()  # fresh memory is zero
    region.array[:] = np.random.default_rng(1).integers(0, 256, region.size, dtype=np.uint8)
    seen = np.zeros(region.size, dtype=np.uint8)
    worker.read(region.number, 0, seen)
    assert np.array_equal(seen, region.array)
    worker.write(region.number, 5, b"from the worker")
    assert region.array[5:20].tobytes() == b"from the worker"
    part = bytearray(4)
    worker.read(region.number, 10, part)
    assert part == b"the "
    stats = worker.stats()
    assert (stats["bytes_copied_in"], stats["bytes_copied_out"]) == (region.size + 4, 15)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_sizes_are_rounded_up_to_the_page(pair: Pair, size: int) -> None:
    region = announced(pair, size)
    assert region.size == len(region) == len(region.array) == -(-size // PAGE) * PAGE


def test_past_the_end_is_an_index_error_on_the_side_that_asked(reaching_pair: Pair) -> None:
    _, worker = reaching_pair
    region = announced(reaching_pair, PAGE)
    worker.read(region.number, PAGE - 8, bytearray(8))
    worker.read(region.number, PAGE, bytearray(0))
    for offset, size in ((PAGE - 7, 8), (PAGE, 1), (2**64 - 1, 1), (2**64 - 8, 16), (0, PAGE + 1)):
        with pytest.raises(IndexError):
            worker.read(region.number, offset, bytearray(size))
        with pytest.raises(IndexError):
            worker.write(region.number, offset, bytes(size))
    assert not region.array.any()


def test_what_was_not_granted_is_refused(reaching_pair: Pair) -> None:
    _, worker = reaching_pair
    readable = announced(reaching_pair, PAGE, access=wire.ACCESS_READ)
    worker.read(readable.number, 0, bytearray(1))
    with pytest.raises(PermissionError):
        worker.write(readable.number, 0, b"x")
    assert not readable.array.any()


def test_a_dropped_region_is_out_of_the_workers_reach_but_not_of_the_clients(pair: Pair) -> None:
    client, worker = pair
    region = announced(pair, PAGE)
    region.array[:] = 9
    region.drop()
    region.drop()
    client.send(b"")
    worker.recv(30)
    with pytest.raises(KeyError):
        worker.read(region.number, 0, bytearray(1))
    assert (region.array == 9).all()


def test_a_number_can_be_used_again_after_the_drop(reaching_pair: Pair) -> None:
    client, worker = reaching_pair
    first = announced(reaching_pair, PAGE, number=3)
    with pytest.raises(ValueError, match="in use"):
        client.create_region(PAGE, number=3)
    first.drop()
    second = announced(reaching_pair, 2 * PAGE, number=3)
    second.array[:] = 2
    seen = bytearray(2 * PAGE)
    worker.read(3, 0, seen)
    assert set(seen) == {2}


@pytest.mark.parametrize("number", [-1, wire.MAX_REGIONS, 2**40])
def test_a_number_that_cannot_be_is_the_callers_error(pair: Pair, number: int) -> None:
    with pytest.raises(ValueError, match="at most"):
        pair[0].create_region(PAGE, number=number)


def test_numbers_are_given_out_lowest_first(pair: Pair) -> None:
    client, _ = pair
    regions = [client.create_region(PAGE) for _ in range(4)]
    assert [region.number for region in regions] == [0, 1, 2, 3]
    regions[1].drop()
    assert client.create_region(PAGE).number == 1


def test_a_region_announced_twice_under_one_number_is_a_protocol_error(pair: Pair) -> None:
    client, worker = pair
    announced(pair, PAGE, number=5)
    client.return_number(5)  # the client's own bookkeeping would have refused
    client.create_region(PAGE, number=5)
    with pytest.raises(ProtocolError, match="REGION_ADD"):
        worker.recv(30)


def test_an_array_outlives_its_region_and_its_connection(pair: Pair) -> None:
    client, _ = pair
    region = client.create_region(PAGE)
    array = region.array
    view = array[100:200].view(np.int32)
    region.drop()
    client.close()
    del region, array
    gc.collect()
    view[:] = 7
    assert (view == 7).all()


def test_closing_the_connection_closes_its_regions(pair: Pair) -> None:
    client, _ = pair
    region = client.create_region(PAGE)
    client.close()
    region.drop()  # nobody to tell
    assert "dropped" in repr(region)
    with pytest.raises(Closed):
        client.create_region(PAGE)


def test_the_workers_memory_goes_with_the_connection(mapping_pair: Pair) -> None:
    client, worker = mapping_pair
    for _ in range(3):
        announced(mapping_pair, PAGE)
    mappings = count_mappings()
    assert mappings >= 3
    worker.close()
    client.close()
    gc.collect()
    assert count_mappings() == 0


def count_mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("gpudisagg-region" in line for line in maps)


def test_descriptors_do_not_leak(pair: Pair) -> None:
    client, worker = pair
    announced(pair, PAGE).drop()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        announced(pair, PAGE).drop()
    client.send(b"")
    worker.recv(30)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_regions_up_to_the_limit(reaching_pair: Pair) -> None:
    client, worker = reaching_pair
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        taking = pool.submit(worker.recv, 60)
        regions = [client.create_region(PAGE) for _ in range(wire.MAX_REGIONS)]
        client.send(b"all")
        assert taking.result(60) == b"all"
    with pytest.raises(ValueError, match="drop one first"):
        client.create_region(PAGE)
    regions[-1].array[0] = 42
    last = bytearray(1)
    worker.read(wire.MAX_REGIONS - 1, 0, last)
    assert last == b"\x2a"


def test_a_region_of_a_gone_peer_is_a_typed_error(ends: Pair) -> None:
    client, worker = ends
    worker.close()
    with pytest.raises(PeerGone):
        for _ in range(10_000):
            client.create_region(PAGE).drop()


# ---------------------------------------------------------------- with their commands


def test_a_command_to_copy_brings_its_bytes_and_takes_them_back(pair: Pair) -> None:
    client, worker = pair
    region = announced(pair, 4 * PAGE)
    region.array[:] = np.random.default_rng(2).integers(0, 256, region.size, dtype=np.uint8)
    before = region.array.copy()
    for n, (offset, size) in enumerate(((0, 1), (7, 100), (PAGE - 1, PAGE + 2), (0, 4 * PAGE))):
        body = wire.CopyHost(0, offset, size, region.number).pack()
        client.post(wire.OP_COPY_IN, 0, body)
        assert wire.decode(worker.receive(30), True).op == wire.OP_COPY_IN
        seen = np.zeros(size, np.uint8)
        worker.read(region.number, offset, seen)
        assert np.array_equal(seen, before[offset : offset + size])
        sequence = client.post(wire.OP_COPY_OUT, 0, body)
        assert wire.decode(worker.receive(30), True).op == wire.OP_COPY_OUT
        before[offset : offset + size] = seen[::-1] + np.uint8(n)
        worker.write(region.number, offset, np.ascontiguousarray(before[offset : offset + size]))
        worker.publish()
        client.wait(sequence, 30)
        assert np.array_equal(region.array, before)


def test_over_tcp_there_is_no_other_time_to_reach_the_clients_memory(short_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        pair = Endpoint("tcp", short_path).pair()
        for end in pair:
            stack.callback(end.close)
        region = announced(pair, PAGE)
        for use in (
            lambda: pair[1].read(region.number, 0, bytearray(1)),
            lambda: pair[1].write(region.number, 0, b"x"),
        ):
            with pytest.raises(TransportError, match="with the command that copies them"):
                use()
        pair[0].send(b"and it goes on")
        assert pair[1].recv(30) == b"and it goes on"


# ---------------------------------------------------------------- staging


class Device:
    """The worker's half of a stage, in Python: "device" memory is a bytearray."""

    def __init__(self, worker: Connection, size: int) -> None:
        self.worker = worker
        self.memory = np.zeros(size, dtype=np.uint8)

    def serve(self) -> None:
        handlers: dict[int, Callable[[Any], None]] = {
            wire.OP_COPY_IN: lambda b: self.worker.read(
                b.region, b.offset, self.memory[b.address : b.address + b.size]
            ),
            wire.OP_COPY_OUT: lambda b: self.worker.write(
                b.region, b.offset, self.memory[b.address : b.address + b.size]
            ),
            wire.OP_WRITE: self.write,
        }
        while True:
            message = self.worker.receive(60)
            value = wire.decode(message, True)
            if value.op == wire.OP_CLOSE:
                return
            if value.op in (wire.OP_REGION_ADD, wire.OP_REGION_DROP):
                self.worker.handle_region(message)
            else:
                handlers[value.op](value.body)
            self.worker.publish()

    def write(self, body: wire.Write) -> None:
        self.memory[body.address : body.address + len(body.data)] = np.frombuffer(body.data, np.uint8)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 4097, 8192, 100_000, 1_000_003])
def test_staged_bytes_arrive_whole(pair: Pair, size: int) -> None:
    client, worker = pair
    device = Device(worker, 2_000_000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(device.serve)
        stage = Stage(client, None, chunks=4, chunk_size=8192)
        source = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        sequence = stage.put(1234, source, timeout=60)
        client.wait(sequence, 60)
        assert np.array_equal(device.memory[1234 : 1234 + size], source)
        back = np.zeros(size, dtype=np.uint8)
        stage.get(back, 1234, timeout=60)
        assert np.array_equal(back, source)
        client.post(wire.OP_CLOSE, 0, b"")
        serving.result(60)
    client.close()
    with pytest.raises(Closed):
        stage.put(0, source)


def test_only_contiguous_and_writable_arrays_are_staged(pair: Pair) -> None:
    client, worker = pair
    device = Device(worker, 1000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        serving = pool.submit(device.serve)
        stage = Stage(client, None, chunks=2, chunk_size=4096)
        with pytest.raises(ValueError, match="contiguous"):
            stage.put(0, np.zeros((4, 4))[:, ::2])
        frozen = np.arange(10, dtype=np.int64)
        frozen.flags.writeable = False
        stage.put(0, frozen)
        with pytest.raises(ValueError, match="read-only"):
            stage.get(frozen, 0)
        back = np.zeros((2, 5), dtype="datetime64[s]")
        stage.get(back, 0)
        assert np.array_equal(back.view(np.int64).reshape(-1), frozen)
        client.post(wire.OP_CLOSE, 0, b"")
        serving.result(60)
