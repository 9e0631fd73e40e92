"""The floors do what they claim: a floor that cheated would make every subject look slow."""

from __future__ import annotations

import numpy as np
import pytest

from bench import floor
from bench.peer import Peer


@pytest.fixture(params=range(len(floor.COPIES)), ids=floor.COPIES)
def how(request: pytest.FixtureRequest) -> int:
    """A copy that this CPU has."""
    megabyte = np.ones(1 << 20, np.uint8)
    if not floor.copy_ns(np.zeros_like(megabyte), megabyte, request.param):
        pytest.skip(f"this CPU has no copy by {floor.COPIES[request.param]}")
    return int(request.param)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 4096, 100_003])
@pytest.mark.parametrize("shift", [0, 1, 63])
def test_each_copy_copies_every_byte_and_no_more(how: int, size: int, shift: int) -> None:
    source = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    memory = np.full(size + 256, 0xEE, np.uint8)
    floor.copy_ns(memory[shift : shift + size], source, how)
    assert np.array_equal(memory[shift : shift + size], source)
    assert (memory[:shift] == 0xEE).all()
    assert (memory[shift + size :] == 0xEE).all()


def test_a_line_goes_to_the_other_process_and_back() -> None:
    with floor.cache_line() as line:
        ffi = floor.load().ffi
        with line.round_trips(3) as (call, memory, _request, reply, first):
            for i in range(3):
                request = ffi.new("char[64]", (1000 * i).to_bytes(8, "little"))
                assert call(memory, request, reply, first + i) == 0
                # The other side adds one to the first word: the bytes made the way, not only the sequence
                # number.
                assert int.from_bytes(ffi.buffer(reply)[:8], "little") == 1000 * i + 1
        times = line.pingpong(10)
        assert len(times) == 10
        assert (times > 0).all()


def test_a_peer_that_ends_is_an_error_and_not_a_hang() -> None:
    with (
        Peer(["floor", "not-a-descriptor", "-1"]) as peer,
        pytest.raises(RuntimeError, match="other process"),
    ):
        peer.expect("ready")
