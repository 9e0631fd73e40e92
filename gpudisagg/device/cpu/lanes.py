"""Writes LLVM IR for the 32 lanes of a warp together: what memory and masks mean for wide values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gpudisagg.device.cpu.emitter import Emitter, ModuleText, Value, widened
from gpudisagg.device.cpu.types import llvm_bits

WIDTH = 32
_HALF = WIDTH // 2
# Sizes that hosts gather and scatter; LLVM turns others into a branch per lane.
_GATHERED = (32, 64)
LaneBody: TypeAlias = Callable[[Value, list[Value]], None]


def constants(type_: str, values: list[int]) -> Value:
    """A constant integer in each lane."""
    return Value("<" + ", ".join(f"{type_} {v}" for v in values) + ">", type_, True, len(values))


class LaneEmitter(Emitter):
    """`mask` is the lanes that run the current block, or None for all 32."""

    def __init__(self, module: ModuleText) -> None:
        super().__init__(module, parallel=False)
        self.mask: Value | None = None
        self._lanes: Value | None = None
        self._arrays: dict[tuple[str, str], Value] = {}

    def enter(self, mask: Value | None) -> None:
        """Start emitting for these lanes."""
        self.mask = mask
        self._lanes = None if mask is None else self.bits(mask)

    @property
    def active(self) -> Value:
        """The running lanes as an i32."""
        return self.const("i32", -1) if self.mask is None else self.mask

    @property
    def running(self) -> Value:
        """The running lanes as an i1 each."""
        return self.broadcast(self.const("i1", 1), WIDTH) if self._lanes is None else self._lanes

    def bits(self, mask: Value) -> Value:
        """An i32 as an i1 per lane."""
        return self.value(f"bitcast {mask.typed} to <{WIDTH} x i1>", "i1", WIDTH)

    def ballot(self, predicate: Value) -> Value:
        """The running lanes whose predicate holds, as an i32."""
        if predicate.lanes == 1:
            return self.select(predicate, self.active, self.const("i32", 0))
        found = self.value(f"bitcast {predicate.typed} to i32", "i32")
        return found if self.mask is None else self.binary("and", found, self.mask)

    def lane_of(self, value: Value, lane: Value) -> Value:
        """One lane's value."""
        if value.lanes == 1:
            return value
        return self.value(f"extractelement {value.typed}, {lane.typed}", value.type)

    def last_lane(self, value: Value) -> Value:
        """The value of the highest running lane."""
        if value.lanes == 1:
            return value
        zeros = self.intrinsic("ctlz", "i32", self.active, self.const("i1", 0))
        return self.lane_of(value, self.binary("sub", self.const("i32", WIDTH - 1), zeros))

    def array(self, purpose: str, type_: str) -> Value:
        """Working memory for a value of each lane; one per purpose and type."""
        key = (purpose, type_)
        if key not in self._arrays:
            cell = self.entry_value(f"alloca {widened(type_, WIDTH)}, align 64", "ptr")
            self._arrays[key] = cell
        return self._arrays[key]

    def keep(self, value: Value, cell: Value) -> None:
        """Store all lanes side by side."""
        self.line(f"store {value.typed}, {cell.typed}, align {_alignment(value)}")

    def kept(self, type_: str, cell: Value, lanes: int = WIDTH) -> Value:
        """Load all lanes stored side by side."""
        wide = Value("", type_, lanes=lanes)
        return self.value(f"load {wide.full}, {cell.typed}, align {_alignment(wide)}", type_, lanes)

    # memory

    def load(
        self,
        type_: str,
        pointer: Value,
        align: int,
        *,
        volatile: bool = False,
        ordering: str | None = None,
        metadata: str = "",
    ) -> Value:
        """A load for the running lanes; one access where all have one address."""
        if pointer.lanes == 1:
            return super().load(
                type_, pointer, align, volatile=volatile, ordering=ordering, metadata=metadata
            )
        size = llvm_bits(type_) // 8
        plain = not volatile and ordering is None and self.mask is None
        if not plain or pointer.origin is None or pointer.stride not in (0, size):
            found = self._gather(type_, pointer, align)
            if ordering in ("acquire", "seq_cst"):
                self.line("fence acquire")
            return found
        fast, slow, joined, ended = (self.new_label(h) for h in ("near", "far", "loaded", "far.end"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        near = self._load_halves(type_, pointer, align)
        self.branch(joined)
        self.place(slow)
        far = self._gather(type_, pointer, align)
        self.branch(ended)
        self.place(ended)
        self.branch(joined)
        self.place(joined)
        phi = f"phi {near.full} [ {near.text}, {fast} ], [ {far.text}, {ended} ]"
        return self.value(phi, type_, WIDTH)

    def store(
        self,
        value: Value,
        pointer: Value,
        align: int,
        *,
        volatile: bool = False,
        ordering: str | None = None,
        metadata: str = "",
    ) -> None:
        """A store by the running lanes; where several have one address, the highest lane's stays."""
        if pointer.lanes == 1:
            super().store(
                self.last_lane(value),
                pointer,
                align,
                volatile=volatile,
                ordering=ordering,
                metadata=metadata,
            )
            return
        value = self.broadcast(value, WIDTH)
        size = llvm_bits(value.type) // 8
        if ordering in ("release", "seq_cst"):
            self.line("fence release")
        plain = not volatile and ordering is None and self.mask is None
        if not plain or pointer.origin is None or pointer.stride not in (0, size):
            self._scatter(value, pointer, align)
            return
        fast, slow, joined = (self.new_label(h) for h in ("near", "far", "stored"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        for start in (0, _HALF):
            if pointer.stride == 0:
                piece = self.lane_of(value, self.const("i32", start + _HALF - 1))
            else:
                piece = self._picked(value, list(range(start, start + _HALF)))
            super().store(piece, self.lane_of(pointer, self.const("i32", start)), align)
        self.branch(joined)
        self.place(slow)
        self._scatter(value, pointer, align)
        self.branch(joined)
        self.place(joined)

    def _picked(self, value: Value, lanes: list[int]) -> Value:
        """A constant choice of lanes."""
        places = ", ".join(f"i32 {lane}" for lane in lanes)
        mask = f"<{len(lanes)} x i32> <{places}>"
        return self.value(
            f"shufflevector {value.typed}, {value.full} poison, {mask}", value.type, len(lanes)
        )

    def permuted(self, value: Value, sources: list[int]) -> Value:
        """Each lane's value from the lane named for it."""
        return self._picked(self.broadcast(value, WIDTH), sources)

    def _regular(self, pointer: Value) -> Value:
        """Whether each half of the warp has addresses `stride` apart. A row of a 16-wide block is one half."""
        origin, stride = pointer.origin, pointer.stride
        assert origin is not None and stride is not None
        expected = self._picked(origin, [0] * _HALF + [_HALF] * _HALF)
        if stride:
            steps = constants(origin.type, [lane % _HALF * stride for lane in range(WIDTH)])
            expected = self.binary("add", expected, steps)
        same = self.icmp("eq", origin, expected)
        whole = self.value(f"bitcast {same.typed} to i32", "i32")
        return self.icmp("eq", whole, self.const("i32", -1))

    def _load_halves(self, type_: str, pointer: Value, align: int) -> Value:
        lanes = 1 if pointer.stride == 0 else _HALF
        halves = []
        for start in (0, _HALF):
            at = self.lane_of(pointer, self.const("i32", start))
            full = widened(type_, lanes)
            halves.append(self.value(f"load {full}, {at.typed}, align {align}", type_, lanes))
        first, second = (self.broadcast(h, _HALF) for h in halves)
        places = ", ".join(f"i32 {lane}" for lane in range(WIDTH))
        mask = f"<{WIDTH} x i32> <{places}>"
        return self.value(f"shufflevector {first.typed}, {second.typed}, {mask}", type_, WIDTH)

    def _gather(self, type_: str, pointer: Value, align: int) -> Value:
        if llvm_bits(type_) not in _GATHERED and self.mask is not None:
            return self._one_by_one(type_, pointer, align)
        wide = Value("zeroinitializer", type_, True, WIDTH)
        arguments = f"{pointer.full} align {align} {pointer.text}, {self.running.typed}, {wide.typed}"
        name = f"llvm.masked.gather.{_suffix(type_)}.v{WIDTH}p0"
        self.module.declarations.add(
            f"declare {wide.full} @{name}({pointer.full}, <{WIDTH} x i1>, {wide.full})"
        )
        return self.value(f"call {wide.full} @{name}({arguments})", type_, WIDTH)

    def _scatter(self, value: Value, pointer: Value, align: int) -> None:
        if llvm_bits(value.type) not in _GATHERED and self.mask is not None:
            self._one_by_one(value.type, pointer, align, value)
            return
        arguments = f"{value.typed}, {pointer.full} align {align} {pointer.text}, {self.running.typed}"
        name = f"llvm.masked.scatter.{_suffix(value.type)}.v{WIDTH}p0"
        self.module.declarations.add(f"declare void @{name}({value.full}, {pointer.full}, <{WIDTH} x i1>)")
        self.line(f"call void @{name}({arguments})")

    def _one_by_one(self, type_: str, pointer: Value, align: int, value: Value | None = None) -> Value:
        """A masked access of a size that hosts don't gather."""
        result = self.array("loaded", type_)
        values = [pointer] if value is None else [pointer, value]

        def body(lane: Value, one: list[Value]) -> None:
            if value is None:
                place = self._element(result, type_, lane)
                Emitter.store(self, Emitter.load(self, type_, one[0], align), place, align)
            else:
                Emitter.store(self, one[1], one[0], align)

        self.lane_loop(values, body)
        return self.kept(type_, result)

    def _element(self, cell: Value, type_: str, lane: Value) -> Value:
        return self.value(f"getelementptr {type_}, {cell.typed}, {lane.typed}", "ptr")

    def lane_loop(self, values: list[Value], body: LaneBody) -> None:
        """Run `body(lane, values of that lane)` for each running lane, lowest first."""
        cells: list[Value | None] = []
        for index, value in enumerate(values):
            if value.lanes == 1:
                cells.append(None)
            else:
                cell = self.array(f"lanes.{index}", value.type)
                self.keep(value, cell)
                cells.append(cell)
        before, head, after = (self.new_label(h) for h in ("lanes", "lane", "lane.next"))
        done = self.new_label("lanes.done")
        self.branch(before)
        self.place(before)
        self.branch(head)
        self.place(head)
        step = Value(f"%{after[2:-1]}.left", "i32")
        start = self.active
        if self.mask is None:
            lane = self.value(f"phi i32 [ 0, {before} ], [ {step.text}, {after} ]", "i32")
            left = lane
        else:
            left = self.value(f"phi i32 [ {start.text}, {before} ], [ {step.text}, {after} ]", "i32")
            lane = self.intrinsic("cttz", "i32", left, self.const("i1", 1))
        one = [
            value if cell is None else Emitter.load(
                self, value.type, self._element(cell, value.type, lane), llvm_bits(value.type) // 8
            )
            for value, cell in zip(values, cells, strict=True)
        ]  # fmt: skip
        body(lane, one)
        self.branch(after)
        self.place(after)
        if self.mask is None:
            self.line(f"{step.text} = add nuw nsw i32 {left.text}, 1")
            more = self.icmp("ult", step, self.const("i32", WIDTH))
        else:
            less = self.binary("add", left, self.const("i32", -1))
            self.line(f"{step.text} = and i32 {left.text}, {less.text}")
            more = self.icmp("ne", step, self.const("i32", 0))
        self.branch_if(more, head, done)
        self.place(done)


def _suffix(type_: str) -> str:
    return f"v{WIDTH}" + {"float": "f32", "double": "f64"}.get(type_, type_)


def _alignment(value: Value) -> int:
    return 4 if value.type == "i1" else 64 if value.lanes == WIDTH else llvm_bits(value.type) // 8
