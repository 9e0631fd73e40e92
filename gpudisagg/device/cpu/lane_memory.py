"""Loads and stores of a warp: one access where lanes' addresses are equal or side by side, else by lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpudisagg.device.cpu.emitter import Emitter, Value, widened
from gpudisagg.device.cpu.lanes import WIDTH, LaneCode, constants
from gpudisagg.device.cpu.types import llvm_bits

_HALF = WIDTH // 2
# Sizes that hosts gather and scatter; LLVM turns others into a branch per lane.
_GATHERED = (32, 64)
# Loads in a loop ask for what they will want 2^3 iterations later, and for what is next to it there, which
# the warps that run next will want: into the second cache, as the first can't wait for as much.
_AHEAD = 3
_PREFETCHED = 256


class LaneEmitter(LaneCode):
    """Adds memory to the code of a warp."""

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
        if volatile or ordering is not None:
            return self._one_by_one(type_, pointer, align, volatile=volatile, ordering=ordering)
        if pointer.origin is None or pointer.stride not in (0, size) or not self._worth_asking(type_):
            return self._gather(type_, pointer, align)
        fast, slow, joined, ended = (self.new_label(h) for h in ("near", "far", "loaded", "far.end"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        if self.mask is not None:
            near = self._load_some(type_, pointer, align)
        else:
            near = self._load_halves(type_, pointer, align)
        if self.streaming and pointer.stride and self.mask is None:
            self._prefetch(pointer)
        self.branch(joined)
        self.place(slow)
        far = self._gather(type_, replace(pointer, narrow=None), align)
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
        if volatile or ordering is not None:
            self._one_by_one(value.type, pointer, align, value, volatile=volatile, ordering=ordering)
            return
        if pointer.origin is None or pointer.stride not in (0, size) or not self._worth_asking(value.type):
            self._scatter(value, pointer, align)
            return
        fast, slow, joined = (self.new_label(h) for h in ("near", "far", "stored"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        if self.mask is not None:
            self._store_some(value, pointer, align)
        for start in (0, _HALF) if self.mask is None else ():
            if pointer.stride == 0:
                piece = self.lane_of(value, self.const("i32", start + _HALF - 1))
            else:
                piece = self._picked(value, list(range(start, start + _HALF)))
            super().store(piece, self._first(pointer, start), align)
        self.branch(joined)
        self.place(slow)
        self._scatter(value, replace(pointer, narrow=None), align)
        self.branch(joined)
        self.place(joined)

    def load_row(
        self,
        type_: str,
        pointer: Value,
        count: int,
        align: int,
        *,
        volatile: bool = False,
        ordering: str | None = None,
        metadata: str = "",
    ) -> list[Value]:
        """Vectors of each lane; in one piece where the lanes' vectors lie side by side."""
        size = llvm_bits(type_) // 8
        plain = not volatile and ordering is None and self.mask is None
        if count == 1 or not plain or pointer.origin is None or pointer.stride != size * count:
            return super().load_row(
                type_, pointer, count, align, volatile=volatile, ordering=ordering, metadata=metadata
            )
        fast, slow, joined, ended = (self.new_label(h) for h in ("near", "far", "loaded", "far.end"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        if self.streaming:
            self._prefetch(pointer, WIDTH * size * count)
        near = [self._picked(whole, list(range(i, _HALF * count, count))) for whole in self._pieces(
            type_, pointer, count, align) for i in range(count)]  # fmt: skip
        near = [self._joined(near[i], near[count + i]) for i in range(count)]
        self.branch(joined)
        self.place(slow)
        far = [self._gather(type_, self.offset(pointer, i * size), align) for i in range(count)]
        self.branch(ended)
        self.place(ended)
        self.branch(joined)
        self.place(joined)
        return [
            self.value(f"phi {n.full} [ {n.text}, {fast} ], [ {f.text}, {ended} ]", type_, WIDTH)
            for n, f in zip(near, far, strict=True)
        ]

    def _pieces(self, type_: str, pointer: Value, count: int, align: int) -> list[Value]:
        """All vectors of each half of the warp."""
        lanes = _HALF * count
        full = widened(type_, lanes)
        places = [self._first(pointer, start) for start in (0, _HALF)]
        return [self.value(f"load {full}, {at.typed}, align {align}", type_, lanes) for at in places]

    def store_row(
        self,
        values: Sequence[Value],
        pointer: Value,
        align: int,
        *,
        volatile: bool = False,
        ordering: str | None = None,
        metadata: str = "",
    ) -> None:
        """Vectors of each lane; in one piece where the lanes' vectors lie side by side."""
        count, size = len(values), llvm_bits(values[0].type) // 8
        plain = not volatile and ordering is None and self.mask is None
        if count not in (2, 4) or not plain or pointer.origin is None or pointer.stride != size * count:
            super().store_row(values, pointer, align, volatile=volatile, ordering=ordering, metadata=metadata)
            return
        wide = [self.broadcast(value, WIDTH) for value in values]
        fast, slow, joined = (self.new_label(h) for h in ("near", "far", "stored"))
        self.branch_if(self._regular(pointer), fast, slow)
        self.place(fast)
        for start in (0, _HALF):
            halves = [self._picked(value, list(range(start, start + _HALF))) for value in wide]
            while len(halves) > 1:
                halves = [self._joined(halves[i], halves[i + 1]) for i in range(0, len(halves), 2)]
            order = [i * _HALF + lane for lane in range(_HALF) for i in range(count)]
            place = self._first(pointer, start)
            self.line(f"store {self._picked(halves[0], order).typed}, {place.typed}, align {align}")
        self.branch(joined)
        self.place(slow)
        for index, value in enumerate(wide):
            self._scatter(value, self.offset(pointer, index * size), align)
        self.branch(joined)
        self.place(joined)

    def _joined(self, a: Value, b: Value) -> Value:
        """All lanes of one value, then all of another."""
        lanes = a.lanes + b.lanes
        places = ", ".join(f"i32 {lane}" for lane in range(lanes))
        return self.value(f"shufflevector {a.typed}, {b.typed}, <{lanes} x i32> <{places}>", a.type, lanes)

    def _picked(self, value: Value, lanes: list[int]) -> Value:
        """A constant choice of lanes."""
        places = ", ".join(f"i32 {lane}" for lane in lanes)
        mask = f"<{len(lanes)} x i32> <{places}>"
        return self.value(f"shufflevector {value.typed}, {value.full} poison, {mask}", value.type, len(lanes))

    def permuted(self, value: Value, sources: list[int]) -> Value:
        """Each lane's value from the lane named for it."""
        return self._picked(self.broadcast(value, WIDTH), sources)

    def _worth_asking(self, type_: str) -> bool:
        """Whether an access is looked at: in the masked form only in loops, to keep code short."""
        return self.mask is None or (self.looping and llvm_bits(type_) in _GATHERED)

    def _first_active(self) -> Value:
        """The lowest running lane, which there is."""
        return self.intrinsic("cttz", "i32", self.active, self.const("i1", 1))

    def _some_regular(self, pointer: Value) -> Value:
        """Whether the running lanes have addresses as if all had addresses `stride` apart."""
        origin = pointer.origin
        assert origin is not None and pointer.stride is not None and pointer.step is None
        key = (origin.text, pointer.stride, None)
        known = self._checked.get(key)
        if known is None:
            lane = self._first_active()
            first = self.lane_of(origin, lane)
            if pointer.stride:
                back = self.binary(
                    "mul", self.resize(lane, llvm_bits(origin.type)), self.const(origin.type, pointer.stride)
                )
                steps = constants(origin.type, [lane * pointer.stride for lane in range(WIDTH)])
                expected = self.binary("add", self.binary("sub", first, back), steps)
            else:
                expected = first
            differ = self.binary("and", self.icmp("ne", origin, expected), self.running)
            known = self.icmp("eq", self.value(f"bitcast {differ.typed} to i32", "i32"), self.const("i32", 0))
            self._checked[key] = known
        return known

    def _place_of_some(self, pointer: Value) -> Value:
        """Where lane 0 has its element, if it runs; with stride 0, where all have it."""
        assert pointer.stride is not None
        lane = self._first_active()
        first = self.lane_of(replace(pointer, origin=None, narrow=None), lane)
        if pointer.stride == 0:
            return first
        back = self.binary("mul", self.resize(lane, 64), self.const("i64", -pointer.stride))
        return self.offset(first, back)

    def _load_some(self, type_: str, pointer: Value, align: int) -> Value:
        at = self._place_of_some(pointer)
        if pointer.stride == 0:
            return self.broadcast(Emitter.load(self, type_, at, align), WIDTH)
        full = widened(type_, WIDTH)
        intrinsic = f"llvm.masked.load.{_suffix(type_)}.p0"
        self.module.declarations.add(f"declare {full} @{intrinsic}(ptr, <{WIDTH} x i1>, {full})")
        arguments = f"ptr align {align} {at.text}, {self.running.typed}, {full} zeroinitializer"
        return self.value(f"call {full} @{intrinsic}({arguments})", type_, WIDTH)

    def _store_some(self, value: Value, pointer: Value, align: int) -> None:
        at = self._place_of_some(pointer)
        if pointer.stride == 0:
            Emitter.store(self, self.last_lane(value), at, align)
            return
        intrinsic = f"llvm.masked.store.{_suffix(value.type)}.p0"
        self.module.declarations.add(f"declare void @{intrinsic}({value.full}, ptr, <{WIDTH} x i1>)")
        self.line(f"call void @{intrinsic}({value.typed}, ptr align {align} {at.text}, {self.running.typed})")

    def _regular(self, pointer: Value) -> Value:
        """Whether each half of the warp has addresses `stride` apart. One is a row of a 16-wide block."""
        if self.mask is not None:
            return self._some_regular(pointer)
        origin, stride = pointer.origin, pointer.stride
        assert origin is not None and stride is not None
        step = stride if pointer.step is None else pointer.step
        # Of indices, that they don't wrap on the way to 64 bits is looked at too.
        key = (origin.text, step, pointer.unsigned if pointer.near else None)
        known = self._checked.get(key)
        if known is not None:
            return known
        expected = self._picked(origin, [0] * _HALF + [_HALF] * _HALF)
        if step:
            steps = constants(origin.type, [lane % _HALF * step for lane in range(WIDTH)])
            expected = self.binary("add", expected, steps)
        same = self.icmp("eq", origin, expected)
        whole = self.value(f"bitcast {same.typed} to i32", "i32")
        result = self.icmp("eq", whole, self.const("i32", -1))
        if pointer.near and step:
            most = (0xFFFFFFFF if pointer.unsigned else 0x7FFFFFFF) - (_HALF - 1) * step
            for start in (0, _HALF):
                first = self.lane_of(origin, self.const("i32", start))
                fits = self.icmp("ule" if pointer.unsigned else "sle", first, self.const("i32", most))
                result = self.binary("and", result, fits)
        self._checked[key] = result
        return result

    def _first(self, pointer: Value, lane: int) -> Value:
        """The pointer of the lane that begins a half."""
        return pointer.near[lane // _HALF] if pointer.near else self.lane_of(pointer, self.const("i32", lane))

    def _prefetch(self, pointer: Value, size: int = _PREFETCHED) -> None:
        """Ask for what this load will want some iterations on. Grid-stride loops jump from page to page,
        where the host's own prefetcher doesn't follow.
        """
        last = self.slot("i64")
        now = self.cast("ptrtoint", self._first(pointer, 0), "i64")
        step = self.binary("sub", now, Emitter.load(self, "i64", last, 8))
        Emitter.store(self, now, last, 8)
        ahead = self.binary("add", now, self.binary("shl", step, self.const("i64", _AHEAD)))
        self.module.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        for line in range(0, size, 64):
            at = self.pointer(self.binary("add", ahead, self.const("i64", line)))
            self.line(f"call void @llvm.prefetch.p0({at.typed}, i32 0, i32 2, i32 1)")

    def _load_halves(self, type_: str, pointer: Value, align: int) -> Value:
        lanes = 1 if pointer.stride == 0 else _HALF
        halves = []
        for start in (0, _HALF):
            at = self._first(pointer, start)
            full = widened(type_, lanes)
            halves.append(self.value(f"load {full}, {at.typed}, align {align}", type_, lanes))
        first, second = (self.broadcast(h, _HALF) for h in halves)
        return self._joined(first, second)

    def _gather(self, type_: str, pointer: Value, align: int) -> Value:
        if llvm_bits(type_) not in _GATHERED and self.mask is not None:
            return self._one_by_one(type_, pointer, align)
        pointer = self._apart(pointer)
        full = widened(type_, WIDTH)
        intrinsic = f"llvm.masked.gather.{_suffix(type_)}.v{WIDTH}p0"
        lanes = f"<{WIDTH} x i1>"
        self.module.declarations.add(f"declare {full} @{intrinsic}({pointer.full}, {lanes}, {full})")
        rest = f"{full} zeroinitializer"
        arguments = f"{pointer.full} align {align} {pointer.text}, {self.running.typed}, {rest}"
        return self.value(f"call {full} @{intrinsic}({arguments})", type_, WIDTH)

    def _scatter(self, value: Value, pointer: Value, align: int) -> None:
        if llvm_bits(value.type) not in _GATHERED and self.mask is not None:
            self._one_by_one(value.type, pointer, align, value)
            return
        pointer = self._apart(pointer)
        intrinsic = f"llvm.masked.scatter.{_suffix(value.type)}.v{WIDTH}p0"
        lanes = f"<{WIDTH} x i1>"
        self.module.declarations.add(f"declare void @{intrinsic}({value.full}, {pointer.full}, {lanes})")
        arguments = f"{value.typed}, {pointer.full} align {align} {pointer.text}, {self.running.typed}"
        self.line(f"call void @{intrinsic}({arguments})")

    def _apart(self, pointer: Value) -> Value:
        """The pointers, made here: LLVM sees that offsets have 32 bits only in the block of the access.
        Where an access is likely to be regular, that isn't worth the code.
        """
        if pointer.narrow is None:
            return pointer
        base, index = pointer.narrow
        signed = self.binary("xor", index, self.const("i32", -(1 << 31)))
        return self.offset(self.offset(base, 1 << 31), self.cast("sext", signed, "i64"))

    def _one_by_one(
        self,
        type_: str,
        pointer: Value,
        align: int,
        value: Value | None = None,
        *,
        volatile: bool = False,
        ordering: str | None = None,
    ) -> Value:
        """Lane by lane: what hosts don't gather, or what must neither be merged nor moved."""
        result = self.array("loaded", type_)
        values = [pointer] if value is None else [pointer, value]

        def body(lane: Value, one: list[Value]) -> None:
            if value is None:
                place = self._element(result, type_, lane)
                found = Emitter.load(self, type_, one[0], align, volatile=volatile, ordering=ordering)
                Emitter.store(self, found, place, align)
            else:
                Emitter.store(self, one[1], one[0], align, volatile=volatile, ordering=ordering)

        self.lane_loop(values, body)
        return self.kept(type_, result)


def _suffix(type_: str) -> str:
    return f"v{WIDTH}" + {"float": "f32", "double": "f64"}.get(type_, type_)
