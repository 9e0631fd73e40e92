"""Writes LLVM IR for the 32 lanes of a warp together: masks, single lanes, loops over lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gpudisagg.device.cpu.emitter import Emitter, ModuleText, Value, widened
from gpudisagg.device.cpu.types import llvm_bits

WIDTH = 32
LaneBody: TypeAlias = Callable[[Value, list[Value]], None]


def constants(type_: str, values: list[int]) -> Value:
    """A constant integer in each lane."""
    return Value("<" + ", ".join(f"{type_} {v}" for v in values) + ">", type_, True, len(values))


class LaneCode(Emitter):
    """`mask` is the lanes that run the current block, or None for all 32."""

    def __init__(self, module: ModuleText) -> None:
        super().__init__(module, parallel=False)
        self.mask: Value | None = None
        self._lanes: Value | None = None
        self._checked: dict[tuple[str, int, bool | None], Value] = {}
        # Whether the accesses being emitted are a loop's, to memory beyond the block's own.
        self.streaming = False
        # Whether the code being emitted is a loop's.
        self.looping = False
        self._arrays: dict[tuple[str, str], Value] = {}

    def enter(self, mask: Value | None) -> None:
        """Start emitting for these lanes."""
        self.mask = mask
        self._lanes = None if mask is None else self.bits(mask)
        self._checked.clear()

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
            # Lanes that never ran must not hold undefined values.
            self.entry.append(f"  store {widened(type_, WIDTH)} zeroinitializer, {cell.typed}, align 64")
            self._arrays[key] = cell
        return self._arrays[key]

    def keep(self, value: Value, cell: Value) -> None:
        """Store all lanes side by side."""
        self.line(f"store {value.typed}, {cell.typed}, align {_alignment(value)}")

    def kept(self, type_: str, cell: Value, lanes: int = WIDTH) -> Value:
        """Load all lanes stored side by side."""
        wide = Value("", type_, lanes=lanes)
        return self.value(f"load {wide.full}, {cell.typed}, align {_alignment(wide)}", type_, lanes)

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


def _alignment(value: Value) -> int:
    return 4 if value.type == "i1" else 64 if value.lanes == WIDTH else llvm_bits(value.type) // 8
