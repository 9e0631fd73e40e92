"""The protocol against a model of docs/protocol.md, message by message: well-formed commands in any order,
with any numbers and addresses. The worker answers as that page says, faults once and says why, completes in
order, and is there for the next session.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import transport
from transport import wire
from transport.errors import PeerGone, SessionFaulted

PATIENCE = 60.0
GRANULES = 6  # of the window, that the model has; the session may have fewer mapped
LIMIT = 4
REGION = 1 << 16
IMAGE = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry nothing() { ret; }
.visible .entry store(.param .u64 to, .param .u32 value)
{
  .reg .u64 %a;
  .reg .u32 %v;
  ld.param.u64 %a, [to];
  ld.param.u32 %v, [value];
  st.global.u32 [%a], %v;
  ret;
}
"""
NONSENSE = b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry nothing( { ret; }\n"
NONSENSE_AT = 4096

ids = st.sampled_from([1] * 8 + [2, 3, 0, 7, 2**32 - 1])
region_ids = st.sampled_from([0, 0, 0, 1, 2, 9, 1023, 2**32 - 2])
streams = st.sampled_from([0] * 8 + [1, 1, 2, 5])
odd = st.sampled_from([1, 2**31, 2**32, 2**63, 2**64 - 1])
granules = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5])
small = st.integers(0, 300)
sizes = small | small | small | st.sampled_from([4096, 65536, 1 << 20]) | odd
offsets = small | small | small | st.sampled_from([4096, REGION - 8, REGION]) | odd


class Machine(RuleBasedStateMachine):
    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.connection: transport.Connection | None = None

    @initialize(bare=st.sampled_from([False, False, False, True]))
    def begin(self, bare: bool) -> None:
        self.open(bare)

    def open(self, bare: bool) -> None:
        """A session, with what most begin with unless `bare`."""
        self.connection = transport.connect(
            self.address, memory=LIMIT * (2 << 20), host_memory=8 << 20, timeout=PATIENCE
        )
        welcome = self.connection.welcome
        assert welcome is not None and welcome.features & wire.FEATURE_DEVICE
        self.base, self.granularity = welcome.window_base, welcome.granularity
        assert welcome.memory == LIMIT * self.granularity
        self.mapped: dict[int, int] = {}  # granule -> how many from there were mapped as one
        self.memory = np.zeros(GRANULES * self.granularity, np.uint8)
        self.regions: dict[int, Any] = {}
        self.unwanted: list[Any] = []
        self.modules: set[int] = set()
        self.streams: set[int] = set()
        self.events: dict[int, int] = {}  # the last time known of it
        self.fault: tuple[int, int, int] | None = None  # sequence, status, op
        self.expected: list[
            tuple[int, tuple[Any, ...]]
        ] = []  # replies that have not come yet: op, and what must be in it
        self.completed = 0
        self.errs = False
        self.add_region(0, wire.ACCESS_READ | wire.ACCESS_WRITE)
        code = self.regions[0][0].array
        code[: len(IMAGE)] = np.frombuffer(IMAGE, np.uint8)
        code[NONSENSE_AT : NONSENSE_AT + len(NONSENSE)] = np.frombuffer(NONSENSE, np.uint8)
        self.regions[0][1][:] = code
        if not bare:
            self.map(0, 2, 0)
            self.create_stream(1)
            self.load(1, True, 0, 1)

    @property
    def c(self) -> transport.Connection:
        assert self.connection is not None
        return self.connection

    # ------------------------------------------------------------ what must come of it

    def post(self, op: int, stream: int, body: Any, status: int = wire.STATUS_OK) -> bool:
        """Posts the command, of which `status` must come if nothing failed before. Whether it has its effect.

        One that must fail is only posted when it is time to err: else no session would get far.
        """
        creates_or_destroys = op in (wire.OP_STREAM_CREATE, wire.OP_STREAM_DESTROY)
        if stream and stream not in self.streams and not creates_or_destroys:
            status = wire.STATUS_NOT_FOUND
        if not self.may_post(status):
            return False
        sequence = self.c.post(op, stream, body.pack() if body is not None else b"")
        return self.posted(sequence, op, body, status)

    def may_post(self, status: int) -> bool:
        return status == wire.STATUS_OK or self.errs or self.fault is not None

    @precondition(lambda self: self.c.posted > 12)
    @rule()
    def err(self) -> None:
        """The next command that must fail is one too many, for this session."""
        self.errs = True

    def posted(self, sequence: int, op: int, body: Any, status: int) -> bool:
        done = self.fault is None and status == wire.STATUS_OK
        if self.fault is None and status != wire.STATUS_OK:
            self.fault = (sequence, status, op)
            self.expected.append((wire.OP_FAULT, (sequence, status, op)))
        if self.fault is not None:
            if op == wire.OP_MODULE_LOAD:
                self.expected.append((wire.OP_MODULE_STATUS, (body.module, self.fault[1])))
            elif op == wire.OP_EVENT_QUERY:
                self.expected.append((wire.OP_EVENT_TIME, (body.event, self.fault[1])))
        return done

    def covered(self, address: int, size: int) -> bool:
        """Whether all of these bytes are mapped."""
        if size == 0:
            return True
        held = {first + n for first, count in self.mapped.items() for n in range(count)}
        first, last = (
            (address - self.base) // self.granularity,
            (address - self.base + size - 1) // self.granularity,
        )
        return first >= 0 and last < GRANULES and held.issuperset(range(first, last + 1))

    def bytes_at(self, address: int, size: int) -> Any:
        return self.memory[address - self.base : address - self.base + size]

    def take_replies(self) -> None:
        """Everything expected is there once the commands are complete, in order, and nothing else."""
        for op, wanted in self.expected:
            message = wire.decode(self.c.receive(0), from_client=False)
            body: Any = message.body
            while (
                op == wire.OP_MODULE_STATUS
                and message.op == wire.OP_KERNEL_INFO
                and wanted[1] == wire.STATUS_OK
            ):
                assert (body.module, ("nothing", "store")[body.kernel]) == (wanted[0], body.name)
                message = wire.decode(self.c.receive(0), from_client=False)
                body = message.body
            assert message.op == op, message
            if op == wire.OP_FAULT:
                assert (body.sequence, body.status, body.op) == wanted and body.reason, message
            elif op == wire.OP_MODULE_STATUS:
                assert (body.module, body.status) == wanted, message
                assert body.kernels == (2 if body.status == wire.STATUS_OK else 0)
            else:
                assert (body.event, body.status) == wanted, message
                if body.status == wire.STATUS_OK:
                    assert body.nanoseconds >= self.events[body.event]
                    self.events[body.event] = body.nanoseconds
        self.expected.clear()
        with pytest.raises(transport.DeadlineExceeded):
            self.c.receive(0)

    @invariant()
    def completion_goes_forward_and_never_past_what_was_posted(self) -> None:
        if self.connection is not None:
            completed = self.c.completed
            assert self.completed <= completed <= self.c.posted
            self.completed = completed

    def until_completed(self, sequence: int) -> None:
        """Also in a session that has failed, of which every wait ends at once."""
        end = time.monotonic() + PATIENCE
        while self.c.completed < sequence:
            assert time.monotonic() < end and self.c.alive
            try:
                self.c.wait(sequence, 1)
            except (SessionFaulted, transport.DeadlineExceeded):
                time.sleep(0.001)

    @rule(stream=streams)
    def synchronize(self, stream: int) -> None:
        self.post(wire.OP_SYNCHRONIZE, stream, None)  # or not, on a stream that is not there
        self.until_completed(self.c.posted)
        if self.fault is not None:
            with pytest.raises(SessionFaulted):
                self.c.wait(self.c.posted, PATIENCE)
        self.take_replies()

    # ------------------------------------------------------------ memory

    @rule(
        first=granules | st.just(10**6), count=st.integers(0, 3), skew=st.sampled_from([0, 0, 0, 0, 1, 4096])
    )
    def map(self, first: int, count: int, skew: int) -> None:
        body = wire.Map(self.base + first * self.granularity + skew, count * self.granularity)
        held = {a + n for a, many in self.mapped.items() for n in range(many)}
        status = wire.STATUS_OK
        if count == 0 or skew or first == 10**6 or held & set(range(first, first + count)):
            status = wire.STATUS_INVALID
        elif len(held) + count > LIMIT:
            status = wire.STATUS_OUT_OF_MEMORY
        elif first + count > GRANULES:
            return  # beyond what the model has
        if self.post(wire.OP_MAP, 0, body, status):
            self.mapped[first] = count
            self.memory[first * self.granularity : (first + count) * self.granularity] = 0

    @rule(first=granules, count=st.integers(0, 4))
    def unmap(self, first: int, count: int) -> None:
        chunks, at = [], first
        while at in self.mapped and at < first + count:
            chunks.append(at)
            at += self.mapped[at]
        status = wire.STATUS_OK if chunks and at == first + count else wire.STATUS_INVALID
        body = wire.Map(self.base + first * self.granularity, count * self.granularity)
        if self.post(wire.OP_UNMAP, 0, body, status):
            for chunk in chunks:
                del self.mapped[chunk]

    def place(self, granule: int, offset: int) -> int:
        return (self.base + granule * self.granularity + offset) % 2**64

    @rule(granule=granules, offset=offsets, data=st.binary(max_size=300), stream=streams)
    def write(self, granule: int, offset: int, data: bytes, stream: int) -> None:
        at = self.place(granule, offset)
        status = wire.STATUS_OK if self.covered(at, len(data)) else wire.STATUS_INVALID
        if self.post(wire.OP_WRITE, stream, wire.Write(at, data), status) and data:
            self.bytes_at(at, len(data))[:] = np.frombuffer(data, np.uint8)

    @rule(
        granule=granules,
        offset=st.integers(0, 64),
        count=sizes,
        width=st.sampled_from([1, 2, 4, 8]),
        pattern=st.integers(0, 2**64 - 1),
    )
    def fill(self, granule: int, offset: int, count: int, width: int, pattern: int) -> None:
        at = self.place(granule, offset)
        fits = self.covered(at, count * width) and count * width < 2**64 and at % width == 0
        body = wire.Fill(at, count, pattern, width)
        if self.post(wire.OP_FILL, 0, body, wire.STATUS_OK if fits else wire.STATUS_INVALID) and count:
            element = np.frombuffer(pattern.to_bytes(8, "little")[:width], np.uint8)
            self.bytes_at(at, count * width)[:] = np.tile(element, count)

    @rule(to=granules, source=granules, to_offset=offsets, offset=offsets, size=sizes, stream=streams)
    def copy(self, to: int, source: int, to_offset: int, offset: int, size: int, stream: int) -> None:
        at, begin = self.place(to, to_offset), self.place(source, offset)
        fits = self.covered(at, size) and self.covered(begin, size)
        status = wire.STATUS_OK if fits else wire.STATUS_INVALID
        if self.post(wire.OP_COPY, stream, wire.Copy(at, begin, size), status) and size:
            self.bytes_at(at, size)[:] = self.bytes_at(begin, size).copy()

    # ------------------------------------------------------------ regions

    def add_region(self, number: int, access: int) -> None:
        exists = number in self.regions
        if exists and not self.errs:
            return
        if exists and self.c.transport != "shm":
            # Only where a descriptor goes with it does this side let a number be used twice.
            self.post(wire.OP_REGION_ADD, 0, wire.RegionAdd(number, access, REGION, 0), wire.STATUS_INVALID)
            return
        if exists:
            self.c.return_number(number)  # so that this side, too, would have it so
        region = self.c.create_region(REGION, number, access)
        status = wire.STATUS_INVALID if exists else wire.STATUS_OK
        if self.posted(self.c.posted, wire.OP_REGION_ADD, None, status):
            self.regions[number] = (region, region.array.copy(), access)
        else:
            self.unwanted.append(region)

    @rule(number=st.sampled_from([0, 1, 2, 1023]), access=st.integers(0, 3))
    def announce(self, number: int, access: int) -> None:
        if self.fault is None:  # else it is gone at once, and its number with it
            self.add_region(number, access)

    @rule(number=region_ids)
    def drop(self, number: int) -> None:
        status = wire.STATUS_OK if number in self.regions else wire.STATUS_NOT_FOUND
        if number != 0 and self.post(wire.OP_REGION_DROP, 0, wire.RegionDrop(number), status):
            self.regions.pop(number)
            self.c.return_number(number)

    def region_status(self, number: int, offset: int, size: int, access: int) -> int:
        if number not in self.regions:
            return wire.STATUS_NOT_FOUND
        fits = offset + size <= REGION and self.regions[number][2] & access
        return wire.STATUS_OK if fits else wire.STATUS_INVALID

    @rule(
        granule=granules,
        offset=offsets,
        at=offsets,
        size=sizes,
        number=region_ids,
        stream=streams,
        back=st.booleans(),
    )
    def move(
        self, granule: int, offset: int, at: int, size: int, number: int, stream: int, back: bool
    ) -> None:
        address = self.place(granule, offset)
        access = wire.ACCESS_WRITE if back else wire.ACCESS_READ
        status = wire.STATUS_INVALID
        if self.covered(address, size):
            status = self.region_status(number, at, size, access)
        op = wire.OP_COPY_OUT if back else wire.OP_COPY_IN
        if back and number == 0:
            return  # where the images are
        if self.post(op, stream, wire.CopyHost(address, at, size, number), status) and size:
            region, model, _ = self.regions[number]
            if back:
                model[at : at + size] = self.bytes_at(address, size)
                self.until_completed(self.c.posted)
                assert np.array_equal(region.array, model)
            else:
                self.bytes_at(address, size)[:] = model[at : at + size]

    @rule(number=region_ids, value=st.integers(0, 255))
    def change(self, number: int, value: int) -> None:
        """What is in a region when a command runs is what counts: so after all those before."""
        if number and number in self.regions:
            self.until_completed(self.c.posted)
            self.regions[number][0].array[::3] = value
            self.regions[number][1][::3] = value

    # ------------------------------------------------------------ code

    @rule(module=ids, sense=st.sampled_from([True, True, False]), number=region_ids, stream=streams)
    def load(self, module: int, sense: bool, number: int, stream: int) -> None:
        image, offset = (IMAGE, 0) if sense else (NONSENSE, NONSENSE_AT)
        status = self.region_status(number, offset, len(image), wire.ACCESS_READ)
        if module in self.modules:
            status = wire.STATUS_INVALID
        body = wire.ModuleLoad(module, number, offset, len(image), ())
        if self.post(wire.OP_MODULE_LOAD, stream, body, status):
            good = sense and number == 0
            self.expected.append(
                (wire.OP_MODULE_STATUS, (module, wire.STATUS_OK if good else wire.STATUS_COMPILE))
            )
            if good:
                self.modules.add(module)

    @rule(module=ids)
    def unload(self, module: int) -> None:
        status = wire.STATUS_OK if module in self.modules else wire.STATUS_NOT_FOUND
        if self.post(wire.OP_MODULE_UNLOAD, 0, wire.ModuleRef(module), status):
            self.modules.remove(module)

    @rule(
        module=ids,
        kernel=st.sampled_from([0, 0, 1, 1, 1, 2]),
        granule=granules,
        offset=st.integers(0, 100),
        value=st.integers(0, 2**32 - 1),
        grid=st.sampled_from([1, 1, 1, 1, 5, 0]),
        cut=st.sampled_from([0, 0, 0, 0, 4]),
        stream=streams,
    )
    def launch(
        self,
        module: int,
        kernel: int,
        granule: int,
        offset: int,
        value: int,
        grid: int,
        cut: int,
        stream: int,
    ) -> None:
        at = self.place(granule, 4 * offset)
        params = b"" if kernel == 0 else at.to_bytes(8, "little") + value.to_bytes(4, "little")
        params = params[: len(params) - cut] if kernel else params
        status = wire.STATUS_OK
        if module not in self.modules or kernel > 1:
            status = wire.STATUS_NOT_FOUND
        elif grid == 0 or (kernel == 1 and cut):
            status = wire.STATUS_INVALID
        elif kernel == 1 and not self.covered(at, 4):
            status = wire.STATUS_DEVICE_FAULT
        body = wire.Launch(module, kernel, (grid, 1, 1), (1, 1, 1), 0, params)
        if self.post(wire.OP_LAUNCH, stream, body, status) and kernel == 1:
            self.bytes_at(at, 4)[:] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)

    # ------------------------------------------------------------ streams and events

    @rule(stream=st.integers(1, 3))
    def create_stream(self, stream: int) -> None:
        status = wire.STATUS_INVALID if stream in self.streams else wire.STATUS_OK
        if self.post(wire.OP_STREAM_CREATE, stream, None, status):
            self.streams.add(stream)

    @rule(stream=st.integers(1, 3))
    def destroy_stream(self, stream: int) -> None:
        status = wire.STATUS_OK if stream in self.streams else wire.STATUS_NOT_FOUND
        if self.post(wire.OP_STREAM_DESTROY, stream, None, status):
            self.streams.remove(stream)

    @rule(event=ids, stream=streams)
    def record(self, event: int, stream: int) -> None:
        if self.post(wire.OP_EVENT_RECORD, stream, wire.EventRef(event)):
            self.events.setdefault(event, 0)

    @rule(event=ids, stream=streams)
    def wait_event(self, event: int, stream: int) -> None:
        self.post(wire.OP_EVENT_WAIT, stream, wire.EventRef(event))

    @rule(event=ids, stream=streams)
    def query(self, event: int, stream: int) -> None:
        if self.post(wire.OP_EVENT_QUERY, stream, wire.EventRef(event)):
            known = wire.STATUS_OK if event in self.events else wire.STATUS_NOT_FOUND
            self.expected.append((wire.OP_EVENT_TIME, (event, known)))

    @rule(event=ids)
    def destroy_event(self, event: int) -> None:
        self.take_replies_of_this_far()
        if self.post(wire.OP_EVENT_DESTROY, 0, wire.EventRef(event)):
            self.events.pop(event, None)

    def take_replies_of_this_far(self) -> None:
        """What is known of an event must not be forgotten before its time has come."""
        self.until_completed(self.c.posted)
        self.take_replies()

    # ------------------------------------------------------------ what is no command

    @rule()
    def data(self) -> None:
        self.post(wire.OP_DATA, 0, wire.Data(b"for a peer without a device"), wire.STATUS_UNSUPPORTED)

    # Sessions should get somewhere before they end.
    long_enough = precondition(lambda self: self.fault is not None or self.c.posted > 25)

    @long_enough
    @rule(
        op=st.sampled_from([64, 99, 127, 128, 132, 133, 200, 255])
        | st.sampled_from(
            [wire.OP_MAP, wire.OP_FILL, wire.OP_SYNCHRONIZE, wire.OP_LAUNCH, wire.OP_EVENT_QUERY]
        ),
        body=st.sampled_from([b"\1", b"\xff" * 16, b"\xff" * 32, bytes(7)]),
    )
    def malformed(self, op: int, body: bytes) -> None:
        """BYE with the reason, behind all that was to be said; then the worker is gone, for this session."""
        if op == wire.OP_MAP and len(body) == 16:
            return  # which is one
        self.until_completed(self.c.posted)
        self.take_replies()
        self.c.post(op, 0, body)
        message = wire.decode(self.c.receive(PATIENCE), from_client=False)
        said: Any = message.body
        assert (message.op, said.status) == (wire.OP_BYE, wire.STATUS_PROTOCOL), message
        assert said.reason
        with pytest.raises(PeerGone):
            self.c.receive(PATIENCE)
        self.c.close()
        self.open(bare=False)

    @long_enough
    @rule(orderly=st.booleans(), bare=st.booleans())
    def reopen(self, orderly: bool, bare: bool) -> None:
        if orderly:
            self.until_completed(self.c.posted)
            self.take_replies()
            self.c.post(wire.OP_CLOSE, 0, b"")
            self.until_completed(self.c.posted)
        self.c.close()
        self.open(bare)

    # ------------------------------------------------------------ every byte

    @precondition(lambda self: self.fault is None and self.mapped and self.c.posted > 8)
    @rule(granule=granules)
    def look(self, granule: int) -> None:
        """The beginning and the end of a chunk, and what lies around the places that commands name."""
        first = sorted(self.mapped)[granule % len(self.mapped)]
        number = 17
        region = self.c.create_region(2 * REGION, number, wire.ACCESS_WRITE)
        assert self.posted(self.c.posted, wire.OP_REGION_ADD, None, wire.STATUS_OK)
        end = self.mapped[first] * self.granularity - REGION
        for at, offset in ((0, 0), (REGION, end)):
            body = wire.CopyHost(self.place(first, offset), at, REGION, number)
            assert self.post(wire.OP_COPY_OUT, 0, body)
        self.until_completed(self.c.posted)
        for at, offset in ((0, 0), (REGION, end)):
            found = region.array[at : at + REGION]
            assert np.array_equal(found, self.bytes_at(self.place(first, offset), REGION))
        region.drop()

    def teardown(self) -> None:
        if self.connection is None or self.connection.closed:
            return
        try:
            self.until_completed(self.c.posted)
            self.take_replies()
            if self.fault is None:
                self.c.post(wire.OP_CLOSE, 0, b"")
                self.until_completed(self.c.posted)
        finally:
            self.c.close()


@pytest.mark.timeout(600)
def test_the_worker_answers_as_the_protocol_says(address: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(address),  # type: ignore[arg-type]
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
