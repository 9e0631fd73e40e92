"""Staged transfers whose pieces run out of time: nothing is sent twice, and they end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import transport.stage
from transport import Connection, DeadlineExceeded, PeerGone, Stage, wire

Pair = tuple[Connection, Connection]
SIZE = 700_001
CHUNK = 16_384


class SlowDevice:
    """The worker's half: executes each command that copies once `pace` seconds have passed, and counts the
    bytes.
    """

    def __init__(self, worker: Connection, pace: float) -> None:
        self.worker = worker
        self.pace = pace
        self.held = threading.Event()  # while not set, nothing is executed
        self.held.set()
        self.memory = np.random.default_rng(5).integers(0, 256, 2 * SIZE, dtype=np.uint8)
        self.moved = {wire.OP_COPY_IN: 0, wire.OP_COPY_OUT: 0}
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(PeerGone):
            while True:
                message = self.worker.receive(60)
                value = wire.decode(message, True)
                if value.op in self.moved:
                    self.held.wait(60)
                    threading.Event().wait(self.pace)
                    body = value.body
                    assert isinstance(body, wire.CopyHost)
                    here = self.memory[body.address : body.address + body.size]
                    copy = self.worker.read if value.op == wire.OP_COPY_IN else self.worker.write
                    copy(body.region, body.offset, here)
                    self.moved[value.op] += body.size
                else:
                    self.worker.handle_region(message)
                self.worker.publish()

    def end(self) -> None:
        self.held.set()
        self.worker.interrupt()
        self._thread.join()


@pytest.fixture
def device(reaching_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDevice]:
    """Slower than a piece is given time for."""
    monkeypatch.setattr(transport.stage, "_PIECE_TIMEOUT", 0.02)
    device = SlowDevice(reaching_pair[1], 0.01)
    yield device
    device.end()


@pytest.fixture
def stage(reaching_pair: Pair) -> Stage:
    return Stage(reaching_pair[0], None, chunks=4, chunk_size=CHUNK)


def test_a_slow_get_moves_each_byte_once(reaching_pair: Pair, stage: Stage, device: SlowDevice) -> None:
    got = np.zeros(SIZE, np.uint8)
    stage.get(got, 77, timeout=60)
    assert np.array_equal(got, device.memory[77 : 77 + SIZE])
    assert device.moved[wire.OP_COPY_OUT] == SIZE
    assert reaching_pair[0].stats()["bytes_copied_out"] == SIZE


def test_a_slow_put_moves_each_byte_once(reaching_pair: Pair, stage: Stage, device: SlowDevice) -> None:
    client, _ = reaching_pair
    data = np.random.default_rng(6).integers(0, 256, SIZE, dtype=np.uint8)
    client.wait(stage.put(77, data, timeout=60), 60)
    assert np.array_equal(device.memory[77 : 77 + SIZE], data)
    assert device.moved[wire.OP_COPY_IN] == SIZE
    assert client.stats()["bytes_copied_in"] == SIZE


def test_a_get_that_was_given_up_begins_anew(stage: Stage, device: SlowDevice) -> None:
    """What came of it before is not taken for what is there now."""
    got = np.zeros(SIZE, np.uint8)
    with pytest.raises(DeadlineExceeded, match="were through"):
        stage.get(got, 0, timeout=0.1)
    device.held.clear()
    device.memory[:] ^= 0xFF
    device.held.set()
    stage.get(got, 0, timeout=60)
    assert np.array_equal(got, device.memory[:SIZE])


def test_a_put_that_was_given_up_begins_anew(reaching_pair: Pair, stage: Stage, device: SlowDevice) -> None:
    data = np.zeros(SIZE, np.uint8)
    with pytest.raises(DeadlineExceeded, match="were through"):
        stage.put(0, data, timeout=0.1)
    data[:] = 9
    reaching_pair[0].wait(stage.put(0, data, timeout=60), 60)
    assert (device.memory[:SIZE] == 9).all()


def test_another_transfer_after_one_that_was_given_up_is_whole(
    reaching_pair: Pair, stage: Stage, device: SlowDevice
) -> None:
    got = np.zeros(SIZE, np.uint8)
    with pytest.raises(DeadlineExceeded):
        stage.get(got, 0, timeout=0.05)
    data = np.arange(5 * CHUNK, dtype=np.uint32).view(np.uint8)[: 5 * CHUNK]
    reaching_pair[0].wait(stage.put(SIZE, data, timeout=60), 60)
    other = np.zeros(5 * CHUNK, np.uint8)
    stage.get(other, SIZE, timeout=60)
    assert np.array_equal(other, data)
