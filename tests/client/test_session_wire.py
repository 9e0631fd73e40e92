"""What a session says to its worker, seen from the other end of a loop: which messages, and how many."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpudisagg import errors
from gpudisagg.session import Session
from transport import wire
from transport.connection import Connection, loop
from transport.errors import DeadlineExceeded as NothingThere

WINDOW = 1 << 40
GRANULARITY = 2 << 20


class Worker:
    """The other end: takes what the session posts, answers what the test says."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def take(self) -> list[tuple[int, int, wire.Body]]:
        """(op, stream, body) of everything posted and not yet taken; all of it is complete from here on."""
        taken = []
        while True:
            try:
                message = wire.decode(self.connection.receive(0), True)
            except NothingThere:
                self.connection.publish()
                return taken
            if message.op == wire.OP_REGION_ADD:
                self.connection.handle_region(wire.encode(message.op, 0, 0, message.body.pack()))  # type: ignore[union-attr]
            taken.append((message.op, message.stream, message.body))

    def ops(self) -> list[int]:
        return [op for op, _, _ in self.take()]

    def fail(self, fault: wire.Fault) -> None:
        self.take()
        self.connection.post(wire.OP_FAULT, 0, fault.pack())
        self.connection.publish(faulted=True)


@pytest.fixture
def pair() -> Iterator[tuple[Session, Worker]]:
    client, worker = loop(timeout=30)
    client.welcome = wire.Welcome(
        granularity=GRANULARITY,
        features=wire.FEATURE_DEVICE,
        window_base=WINDOW,
        window_size=1 << 32,
        memory=256 << 20,
        host_memory=64 << 20,
        max_grid=(1 << 31, 65535, 65535),
        max_block=(1024, 1024, 64),
        max_block_threads=1024,
        max_shared=48 << 10,
        name="loop",
    )
    session = Session(client, "loop", 30)
    yield session, Worker(worker)
    session.close()
    worker.close()


FAULT = wire.Fault(2, wire.STATUS_DEVICE_FAULT, wire.OP_LAUNCH, 0xBAD, 0, 0, (1, 2, 3), 5, "wild read")


def test_allocating_and_freeing_after_warm_up_posts_nothing(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    session.empty(1 << 20, np.uint8)
    assert worker.ops() == [wire.OP_MAP]
    posted = session.channel.connection.posted
    for _ in range(100):
        session.empty(1 << 20, np.uint8)
    assert session.channel.connection.posted == posted


def test_fresh_memory_is_zeros_without_a_fill_and_used_memory_is_filled(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.zeros(1000, np.float32)
    assert worker.ops() == [wire.OP_MAP]
    address = array.ptr
    del array
    again = session.zeros(1000, np.float32)
    assert again.ptr == address
    assert worker.take() == [(wire.OP_FILL, 0, wire.Fill(address, 4000, 0, 1))]


def test_memory_is_kept_for_reuse_until_it_is_asked_back(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.empty(3 << 20, np.uint8)
    ((_, _, mapped),) = worker.take()
    assert mapped == wire.Map(WINDOW, 4 << 20)
    assert session.free_all_blocks() == 0
    del array
    assert worker.ops() == []
    assert session.free_all_blocks() == 4 << 20
    assert worker.take() == [(wire.OP_UNMAP, 0, mapped)]
    assert session.memory_info.mapped == 0


@pytest.mark.parametrize(
    ("dtype", "value", "width", "pattern"),
    [
        ("f4", 1.5, 4, 0x3FC00000),
        ("i8", -1, 1, 0xFF),
        ("u2", 0x1234, 2, 0x1234),
        ("f8", 0.1, 8, 0x3FB999999999999A),
        ("c16", 0, 1, 0),
        ("c16", 0.1 + 0.1j, 8, 0x3FB999999999999A),
        ("?", True, 1, 1),
    ],
)
def test_a_fill_uses_the_narrowest_element_that_says_it(
    pair: tuple[Session, Worker], dtype: str, value: object, width: int, pattern: int
) -> None:
    session, worker = pair
    array = session.empty((2, 8), dtype)
    worker.take()
    array.fill(value)
    assert worker.take() == [(wire.OP_FILL, 0, wire.Fill(array.ptr, array.nbytes // width, pattern, width))]


def test_a_fill_of_a_view_is_a_command_for_each_row(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.empty((4, 8), np.int32)
    worker.take()
    array[1:3, 2:6].fill(7)
    rows = [wire.Fill(array.ptr + row * 32 + 8, 4, 7, 4) for row in (1, 2)]
    assert [body for _, _, body in worker.take()] == rows


def test_a_copy_of_overlapping_views_goes_through_other_memory(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.empty((4, 8), np.int32)
    worker.take()
    array[1:, :4] = array[:-1, :4]
    copies = [body for op, _, body in worker.take() if op == wire.OP_COPY]
    inside = range(array.ptr, array.ptr + array.nbytes)
    assert all(isinstance(c, wire.Copy) and (c.destination in inside) != (c.source in inside) for c in copies)
    assert len(copies) == 6


def test_without_other_streams_reuse_needs_no_waiting(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    session.empty(100)
    worker.take()
    session.empty(100)
    assert worker.ops() == []


def test_reuse_on_another_stream_waits_for_those_that_may_still_use_it(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    first, second = session.stream(), session.stream()
    session.empty(100)
    worker.take()
    with second:
        session.empty(100)
    messages = worker.take()
    assert {(op, stream) for op, stream, _ in messages} == {
        (wire.OP_EVENT_RECORD, 0),
        (wire.OP_EVENT_RECORD, first.number),
        (wire.OP_EVENT_WAIT, second.number),
    }
    assert [op for op, _, _ in messages] == [wire.OP_EVENT_RECORD, wire.OP_EVENT_WAIT] * 2


def test_a_dead_stream_is_destroyed_behind_what_it_did(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    stream = session.stream()
    number = stream.number
    worker.take()
    del stream
    gc.collect()
    messages = worker.take()
    assert messages[0][:2] == (wire.OP_EVENT_RECORD, number)
    assert messages[1][:2] == (wire.OP_EVENT_WAIT, 0)
    assert messages[-1][:2] == (wire.OP_STREAM_DESTROY, number)


def test_work_goes_on_the_current_stream_of_its_thread(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.empty(4, np.int32)
    outer, inner = session.stream(), session.stream()
    worker.take()
    with outer:
        array.fill(1)
        with inner:
            array.fill(2)
            array.fill(3, stream=outer)
            array.fill(4, stream=session.default_stream)
        array.fill(5)
        other = threading.Thread(target=array.fill, args=(6,))
        other.start()
        other.join()
    array.fill(7)
    streams = [stream for op, stream, _ in worker.take() if op == wire.OP_FILL]
    assert streams == [outer.number, inner.number, outer.number, 0, outer.number, 0, 0]


def test_a_dead_event_is_destroyed_if_the_worker_knows_of_it(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    session.event()
    assert worker.ops() == []
    session.event().record()
    assert worker.ops() == [wire.OP_EVENT_RECORD, wire.OP_EVENT_DESTROY]


def test_a_host_array_s_region_is_kept_after_its_last_view_and_dropped_when_told(
    pair: tuple[Session, Worker],
) -> None:
    session, worker = pair
    host = session.host_empty((4, 4), np.float32)
    view = np.asarray(host)[1:, ::2]
    assert worker.ops() == [wire.OP_REGION_ADD]
    used = session.stats()["host_used"]
    del host
    gc.collect()
    view[...] = 3
    assert worker.ops() == []
    del view
    gc.collect()
    assert worker.ops() == []
    assert session.stats()["host_used"] == used
    assert session.stats()["host_kept"] == 4096
    session.free_all_blocks()
    assert worker.ops() == [wire.OP_REGION_DROP]
    assert session.stats()["host_used"] == used - 4096


def test_host_memory_that_is_not_mapped_by_the_worker_is_dropped_once_no_command_needs_it(
    pair: tuple[Session, Worker],
) -> None:
    session, worker = pair  # no HOST_MAP: as over TCP, the bytes may still have to be sent
    host = session.host_empty(4096, np.uint8)
    session.empty(4096, np.uint8).set(host, blocking=False)
    del host
    gc.collect()
    session.free_all_blocks()
    assert wire.OP_REGION_DROP not in worker.ops()
    session.free_all_blocks()
    assert worker.ops() == [wire.OP_REGION_DROP]


def test_host_memory_that_a_command_may_still_use_is_not_used_again(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    host = session.host_empty(4096, np.uint8)
    region = host.region
    session.empty(4096, np.uint8).set(host, blocking=False)
    del host
    gc.collect()
    assert session.host_empty(4096, np.uint8).region != region  # the worker has completed nothing yet
    worker.take()


def test_host_memory_over_the_limit_is_refused_here(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with pytest.raises(
        errors.OutOfMemory, match=r"65 MiB of host memory asked, 0 B of 64 MiB used; drop .*connect"
    ):
        session.host_empty(65 << 20, np.uint8)
    assert worker.ops() == []
    assert session.host_empty(64 << 20, np.uint8).nbytes == 64 << 20


# ---------------------------------------------------------------- failures


def waits(session: Session) -> list[Callable[[], object]]:
    array, event = session.zeros(4), session.event()
    event.record()
    return [
        session.synchronize,
        array.get,
        array[::2].get,
        session.zeros(0).get,
        event.synchronize,
        session.default_stream.synchronize,
        lambda: session.compile("x"),
        lambda: session.host_empty(4),
    ]


def test_every_wait_after_a_fault_raises_it_again_whole(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    calls = waits(session)
    session.channel.kernels[0] = ("reader",)
    worker.fail(FAULT)
    for call in calls:
        with pytest.raises(
            errors.DeviceFault, match=r"kernel reader \(command 2\) failed: wild read; .*connect"
        ) as caught:
            call()
        fault = caught.value
        assert (fault.command, fault.kernel, fault.sequence, fault.reason) == (
            "LAUNCH",
            "reader",
            2,
            "wild read",
        )
        assert (fault.address, fault.block, fault.thread) == (0xBAD, (1, 2, 3), 5)
    session.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (wire.STATUS_INVALID, errors.InvalidCommand),
        (wire.STATUS_NOT_FOUND, errors.InvalidCommand),
        (wire.STATUS_OUT_OF_MEMORY, errors.OutOfMemory),
        (wire.STATUS_INTERNAL, errors.CommandError),
        (wire.STATUS_UNSUPPORTED, errors.CommandError),
        (wire.STATUS_PROTOCOL, errors.ProtocolError),
        (wire.STATUS_DEVICE_FAULT, errors.DeviceFault),
    ],
)
def test_a_fault_becomes_the_error_of_its_status(
    pair: tuple[Session, Worker], status: int, kind: type[Exception]
) -> None:
    session, worker = pair
    session.zeros(4)
    worker.fail(FAULT._replace(status=status, op=wire.OP_FILL, thread=wire.UNKNOWN_THREAD))
    with pytest.raises(kind, match=r"FILL \(command 2\) failed: wild read"):
        session.synchronize()


def test_a_failure_that_nobody_has_seen_is_raised_at_the_end_of_the_block(
    pair: tuple[Session, Worker],
) -> None:
    session, worker = pair
    with pytest.raises(errors.DeviceFault), session:
        session.zeros(4)
        worker.fail(FAULT)
    assert session.closed


def test_a_failure_that_was_seen_is_not_raised_again_by_leaving(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with session:
        session.zeros(4)
        worker.fail(FAULT)
        with pytest.raises(errors.DeviceFault):
            session.synchronize()
    assert session.closed


def test_leaving_by_another_error_keeps_that_error(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with pytest.raises(KeyError), session:
        worker.fail(FAULT)
        raise KeyError
    assert session.closed


def test_a_goodbye_is_a_lost_session_with_the_server_s_reason(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    calls = waits(session)
    worker.connection.post(wire.OP_BYE, 0, wire.Bye(wire.STATUS_SHUTDOWN, "the host goes down").pack())
    worker.connection.close()
    for call in calls:
        with pytest.raises(errors.SessionLost, match=r"the host goes down\. Connect again"):
            call()


def test_a_worker_that_dies_is_a_lost_session_that_says_what_to_do(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    calls = waits(session)
    worker.connection.close()
    for call in calls:
        with pytest.raises(errors.SessionLost, match=r"the worker behind loop died .* Connect again"):
            call()
    session.close()


def test_a_wait_ends_at_its_deadline_and_may_be_repeated(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array, event = session.zeros(4), session.event()
    event.record()
    for call in (session.synchronize, event.synchronize, session.default_stream.synchronize):
        with pytest.raises(
            errors.DeadlineExceeded, match=r"not done within 0.01 s; wait again, give more"
        ) as caught:
            call(timeout=0.01)
        assert isinstance(caught.value, TimeoutError)
    session.timeout = 0.01
    for wait in (array.get, lambda: session.compile("x")):
        with pytest.raises(errors.DeadlineExceeded, match=r"0\.01 s"):
            wait()
    worker.take()
    session.synchronize(30)


def test_a_compilation_not_waited_for_is_unloaded_when_it_comes(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with pytest.raises(errors.DeadlineExceeded):
        session.compile("x", timeout=0.01)
    array = session.zeros(4)  # whatever is posted next brings it along
    array.fill(1)
    taken = worker.take()
    loads = [body.module for op, _, body in taken if op == wire.OP_MODULE_LOAD]
    assert loads == [body.module for op, _, body in taken if op == wire.OP_MODULE_UNLOAD]


def test_a_ring_that_stays_full_ends_at_the_deadline_too(pair: tuple[Session, Worker]) -> None:
    session, _ = pair
    array = session.zeros(4)
    session.timeout = 0.01
    with pytest.raises(errors.DeadlineExceeded, match="posting FILL"):
        for _ in range(1 << 20):
            array.fill(1)


def test_after_close_every_call_says_closed_and_closing_again_is_fine(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    calls = [*waits(session), lambda: session.empty(4), lambda: session.asarray(np.ones(3)), session.stream]
    worker.take()
    session.close()
    assert wire.OP_CLOSE in worker.ops()
    for call in calls:
        with pytest.raises(errors.SessionClosed, match="open another with connect"):
            call()
    session.close()


def test_closing_ends_a_wait_in_another_thread(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    session.zeros(4)
    caught: list[BaseException] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        try:
            session.synchronize()
        except errors.GpuDisaggError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(30)
    session.close()
    thread.join(30)
    assert [type(error) for error in caught] == [errors.SessionClosed]
    worker.connection.close()


def test_host_arrays_stay_readable_after_close(pair: tuple[Session, Worker]) -> None:
    session, _ = pair
    host = session.host_array(np.arange(5000))
    session.close()
    assert host.sum() == sum(range(5000))


def test_what_cannot_be_an_array_is_refused_before_anything_is_posted(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with pytest.raises(TypeError, match="not plain bytes"):
        session.asarray(np.array([object()]))
    with pytest.raises(ValueError, match="negative"):
        session.empty(-1)
    with pytest.raises(errors.OutOfMemory, match="257 MiB asked"):
        session.empty(257 << 20, np.uint8)
    with pytest.raises(errors.OutOfMemory):
        session.empty(1 << 62, np.uint8)
    assert worker.ops() == []


def test_what_cannot_be_a_module_is_refused_before_anything_is_posted(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    with pytest.raises(errors.CompileError, match="empty"):
        session.compile("")
    with pytest.raises(errors.CompileError, match="a module may have 64 MiB"):
        session.compile(bytes((64 << 20) + 1))
    for source in (None, 5, Path("kernels.cu")):
        with pytest.raises(TypeError, match="device code is text or bytes"):
            session.compile(source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sequence of texts"):
        session.compile("x", "-O3")
    with pytest.raises(errors.CompileError, match="2048 bytes"):
        session.compile("x", ["-D" + "x" * 3000])
    assert worker.ops() == []


def test_a_device_array_says_how_to_get_its_numbers_instead_of_guessing(pair: tuple[Session, Worker]) -> None:
    session, worker = pair
    array = session.zeros((2, 3), np.float32)
    worker.take()
    for convert in (np.asarray, np.sum, lambda a: np.ones(3) + a, bool):
        with pytest.raises(TypeError):
            convert(array)
    assert repr(array) == f"DeviceArray(shape=(2, 3), dtype=float32, ptr={array.ptr:#x})"
    assert len(array) == 2
    assert worker.ops() == []
