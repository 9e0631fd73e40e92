"""The lockstep model's values: what registers, memory and other lanes are to a warp that runs as one.

Registers that may differ between lanes are vectors of 32 (`uniform.py` tells which), the others scalars. How
lanes part and meet is in `diverge.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gpudisagg.device.cpu import ast, warps
from gpudisagg.device.cpu.affine import Affines
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.emitter import INVARIANT, Emitter, Value, quoted
from gpudisagg.device.cpu.functions import FunctionLowering
from gpudisagg.device.cpu.lane_memory import LaneEmitter
from gpudisagg.device.cpu.lanes import WIDTH, constants
from gpudisagg.device.cpu.layout import ModuleLayout
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering.context import Gather
from gpudisagg.device.cpu.strides import Strides
from gpudisagg.device.cpu.types import U32, U64, ScalarType
from gpudisagg.device.cpu.uniform import Uniformity

RETURN = '%"return"'


class LockstepLowering(FunctionLowering):
    """Lowers a kernel for a warp."""

    em: LaneEmitter

    def __init__(
        self,
        layout: ModuleLayout,
        graph: CallGraph,
        em: LaneEmitter,
        function: ast.Function,
        plan: Uniformity,
    ) -> None:
        super().__init__(layout, graph, em, function, RETURN)
        self._pointers = set()
        self.plan = plan
        self.strides = Strides(plan)
        self.block = 0
        # Register values that the code of the current block has at hand.
        self._held: dict[str, Value] = {}
        self.affines = Affines(self._integer)
        self._declare_locals(function)
        self._start()

    def _declare_locals(self, function: ast.Function) -> None:
        em = self.em
        assert function.body is not None
        for variable in function.body.variables:
            # .param variables hold the arguments of what the runtime answers (printf).
            if variable.space in ("local", "param"):
                align = max(variable.align, 8)
                size = -(-max(variable.size, 1) // align) * align
                cell = em.entry_value(f"alloca [{size * WIDTH} x i8], align {align}", "ptr")
                steps = constants("i64", [lane * size for lane in range(WIDTH)])
                each = em.entry_value(f"getelementptr i8, {cell.typed}, {steps.typed}", "ptr", WIDTH)
                self.frame.locals[variable.name] = each
                if variable.space == "local":
                    self._ranges.append((cell, size * WIDTH))

    def _start(self) -> None:
        """The thread indices: divided in floating point, which is exact for so small numbers."""
        em = self.em
        code, em.code = em.code, em.entry
        base = em.binary("shl", Value("%warp", "i32"), em.const("i32", 5))
        self._linear = em.binary("or", base, constants("i32", list(range(WIDTH))))

        def divided(value: Value, divisor: Value) -> Value:
            half = em.binary("fadd", em.cast("uitofp", value, "float"), em.real("float", 0.5))
            quotient = em.binary("fdiv", half, em.cast("uitofp", divisor, "float"))
            return em.cast("fptoui", quotient, "i32")

        nx, nxy = Value("%nx", "i32"), Value("%nxy", "i32")
        z = divided(self._linear, nxy)
        rest = em.binary("sub", self._linear, em.binary("mul", z, nxy))
        y = divided(rest, nx)
        x = em.binary("sub", rest, em.binary("mul", y, nx))
        # Frozen, so that they are kept across barriers: LLVM would rather divide again each time.
        self._index = {axis: self._kept(value) for axis, value in (("x", x), ("y", y), ("z", z))}
        em.code = code

    def _kept(self, value: Value) -> Value:
        return self.em.value(f"freeze {value.typed}", value.type, value.lanes)

    # registers

    def _register(self, name: str) -> tuple[Value, ScalarType]:
        known = self.frame.registers.get(name)
        if known is None:
            scalar = self.plan.body.registers.get(name)
            if scalar is None:
                raise self.error(f"unknown register {name}")
            known = (self.em.slot(scalar.storage, self._width(name)), scalar)
            self.frame.registers[name] = known
        return known

    def _width(self, name: str) -> int:
        return WIDTH if name in self.plan.varying else 1

    def load_register(self, name: str) -> Value:
        """A register's value in all lanes."""
        if name not in self._held:
            slot, have = self._register(name)
            wide = Value("", have.storage, lanes=self._width(name))
            self._held[name] = self.em.value(f"load {wide.full}, {slot.typed}", have.storage, wide.lanes)
        return self._held[name]

    def _before(self, name: str) -> Value:
        """What a register holds in all lanes, those that don't run too."""
        slot, have = self._register(name)
        wide = Value("", have.storage, lanes=self._width(name))
        return self.em.value(f"load {wide.full}, {slot.typed}", have.storage, wide.lanes)

    def _integer(self, operand: ast.Operand, bits: int) -> Value:
        return self.read(operand, U64 if bits == 64 else U32)

    def store_register(self, name: str, value: Value) -> None:
        """Assign a register in the running lanes."""
        slot, _ = self._register(name)
        width = self._width(name)
        if width < value.lanes:
            raise self.error(f"internal error: {name} is not the same in all lanes")
        value = self.em.broadcast(value, width)
        kept = value
        if width > 1 and self.em.mask is not None and not self.plan.stays(name, self.block):
            kept = self.em.select(self.em.running, value, self._before(name))
        self.em.line(f"store {kept.typed}, {slot.typed}")
        # In this block only the running lanes' matter: code is shorter without the others'.
        self._held[name] = value

    def read_carry(self) -> Value:
        """CC.CF."""
        slot = self._carry_slot()
        return self.em.value(f"load <{WIDTH} x i1>, {slot.typed}", "i1", WIDTH)

    def write_carry(self, value: Value) -> None:
        """Set CC.CF in the running lanes."""
        slot = self._carry_slot()
        value = self.em.broadcast(value, WIDTH)
        if self.em.mask is not None:
            value = self.em.select(self.em.running, value, self.read_carry())
        self.em.line(f"store {value.typed}, {slot.typed}")

    def _carry_slot(self) -> Value:
        if self._carry is None:
            self._carry = self.em.slot("i1", WIDTH)
        return self._carry

    def thread_index(self, axis: str) -> Value:
        """%tid."""
        return self._index[axis]

    def linear(self) -> Value:
        """The threads' indices in the block."""
        return self._linear

    def first_thread(self) -> Value:
        """The first running lane's index."""
        em = self.em
        lane = em.intrinsic("cttz", "i32", em.active, em.const("i1", 0))
        return em.binary("add", em.binary("shl", Value("%warp", "i32"), em.const("i32", 5)), lane)

    def warp_index(self) -> Value:
        """%warpid."""
        return Value("%warp", "i32")

    # memory

    def address(self, operand: ast.Operand, space: str) -> Value:
        """A pointer, with a guess at how it goes from lane to lane."""
        pointer = self._in_shared(operand) if space == "shared" else None
        if pointer is None:
            pointer = super().address(operand, space)
        if pointer.lanes == 1 or not isinstance(operand, ast.Address):
            return pointer
        if not isinstance(operand.base, ast.Register):
            return pointer
        stride = self.strides.of(operand.base.name)
        self.em.streaming = space != "shared" and self.plan.flow.depth(self.block) > 0
        if stride is None:
            return pointer
        origin = self.load_register(operand.base.name)
        guessed = replace(pointer, stride=stride, origin=origin)
        affine = self.affines.of(operand.base.name)
        if affine is None or self.em.mask is not None or stride % affine.scale or not 0 <= stride <= 64:
            return guessed
        firsts = [self.em.lane_of(affine.index, self.em.const("i32", lane)) for lane in (0, WIDTH // 2)]
        places = [affine.of_lane(self.em, first, operand.offset) for first in firsts]
        shared = self.shared_base() if space == "shared" else None
        near = tuple(self.em.offset(shared, p) if shared is not None else self.em.pointer(p) for p in places)
        step, unsigned = stride // affine.scale, not affine.signed
        return replace(guessed, origin=affine.index, step=step, unsigned=unsigned, near=near)

    def _in_shared(self, operand: ast.Operand) -> Value | None:
        """A pointer from a 32-bit offset, in the form for which hosts have a gather of their own."""
        if not isinstance(operand, ast.Address) or not isinstance(operand.base, ast.Register):
            return None
        scalar = self.plan.body.registers.get(operand.base.name)
        if scalar is None or scalar.bits not in (32, 64):
            return None
        value = self.load_register(operand.base.name)
        em = self.em
        # Shared addresses have 32 bits: of a wider register the others are not looked at.
        index = em.resize(em.bitcast(value, f"i{scalar.bits}"), 32)
        if operand.offset:
            index = em.binary("add", index, em.const("i32", operand.offset))
        base = self.shared_base()
        pointer = em.offset(base, em.cast("zext", index, "i64"))
        return pointer if pointer.lanes == 1 else replace(pointer, narrow=(base, index))

    # lanes together

    def each_lane(
        self, values: Sequence[Value], body: Callable[[Sequence[Value]], Value], *, always: bool = False
    ) -> Value:
        """`body` for one running lane after the other."""
        em = self.em
        if not always and all(value.lanes == 1 for value in values):
            return body(values)
        results: list[tuple[Value, str]] = []

        def once(lane: Value, one: list[Value]) -> None:
            mask, em.mask = em.mask, None
            result = body(one)
            em.mask = mask
            cell = em.array("result", result.type)
            results.append((cell, result.type))
            place = em.value(f"getelementptr {result.type}, {cell.typed}, {lane.typed}", "ptr")
            em.line(f"store {result.typed}, {place.typed}")

        em.lane_loop(list(values), once)
        cell, type_ = results[0]
        return em.kept(type_, cell)

    def exchange(self, value: Value, mask: Value) -> Value:
        """The warp's words side by side."""
        cell = self.em.array("exchange", "i32")
        self.em.keep(self.em.broadcast(value, WIDTH), cell)
        return cell

    def shuffled(self, value: Value, mask: Value, source: Value, places: list[int] | None) -> Value:
        """Each lane's word from its source lane."""
        if places is not None:
            return self.em.permuted(self.em.bitcast(value, "i32"), places)
        return super().shuffled(self.em.bitcast(value, "i32"), mask, source, places)

    def lane_constant(self, values: list[int], type_: str) -> Value:
        """A constant of each lane's own."""
        return constants(type_, values)

    def gather(self, value: Value, sources: list[list[int]]) -> list[Value]:
        """Each lane's value from its source lane, for each list of source lanes."""
        return [self.em.permuted(value, lanes) for lanes in sources]

    def outlined(
        self,
        name: str,
        values: Sequence[Value],
        build: Callable[[Emitter, Gather, Sequence[Value]], list[Value]],
    ) -> list[Value]:
        """What `build` makes of the values: a function that all its users call, as it is large."""
        em = self.em
        values = [em.broadcast(value, WIDTH) for value in values]
        module = em.module
        symbol = "@" + quoted(f"gpud.warp.{name}")
        key = f"{symbol}.type"
        if key not in module.helpers:
            own = LaneEmitter(module)
            given = [Value(f"%a{i}", value.type, lanes=WIDTH) for i, value in enumerate(values)]

            def gather(value: Value, sources: list[list[int]]) -> list[Value]:
                return [own.permuted(value, lanes) for lanes in sources]

            results = [own.broadcast(value, WIDTH) for value in build(own, gather, given)]
            types = [result.full for result in results]
            whole = f"[{len(types)} x {types[0]}]"
            last = "poison"
            for index, result in enumerate(results):
                expression = f"insertvalue {whole} {last}, {result.typed}, {index}"
                last = own.value(expression, result.type).text
            parameters = ", ".join(value.typed for value in given)
            head = f"define internal {whole} {symbol}({parameters}) noinline nounwind {{"
            lines = [head, *own.entry, *own.code, f"  ret {whole} {last}", "}"]
            module.helpers[symbol] = "\n".join(lines)
            module.helpers[key] = f"; {len(types)} {results[0].type}"
        count, type_ = module.helpers[key].split()[1:]
        full = Value("", type_, lanes=WIDTH).full
        passed = ", ".join(value.typed for value in values)
        whole = em.value(f"call [{count} x {full}] {symbol}({passed})", type_).text
        return [
            em.value(f"extractvalue [{count} x {full}] {whole}, {index}", type_, WIDTH)
            for index in range(int(count))
        ]

    def warp_group(self) -> Value:
        """The running lanes."""
        return self.em.active

    def converged(self, place: int) -> Value:
        """The running lanes."""
        return self.em.active

    # barriers: all of the warp's lanes that haven't exited are here

    def _header(self) -> Value:
        em = self.em
        return em.load("ptr", em.offset(Value("%ctx", "ptr"), c.SCRATCH), 8, metadata=INVARIANT)

    def _count(self) -> Value:
        return self.em.intrinsic("ctpop", "i32", self.em.active)

    def _add(self, pointer: Value, amount: Value) -> None:
        em = self.em
        em.store(em.binary("add", em.load("i32", pointer, 4), amount), pointer, 4)

    def _cells(self, barrier: Value, field: int) -> Value:
        em = self.em
        index = em.resize(em.binary("shl", barrier, em.const("i32", 2)), 64)
        return em.offset(em.offset(self._header(), field), index)

    def block_barrier(self, barrier: Value, count: Value) -> None:
        """Wait with the whole warp."""
        em = self.em
        header = self._header()
        self._add(self._cells(barrier, warps.COUNTS), self._count())
        em.store(count, self._cells(barrier, warps.NEEDS), 4)
        self._add(em.offset(header, warps.WAITING), self._count())
        self.set_state(em.binary("add", barrier, em.const("i32", 1)))
        em.module.declarations.add("declare i8 @llvm.coro.suspend(token, i1)")
        resumed = em.value("call i8 @llvm.coro.suspend(token none, i1 false)", "i8")
        after = em.new_label("resumed")
        em.line(f'switch {resumed.typed}, label %"suspend" [ i8 0, label {after} i8 1, label %"cleanup" ]')
        em.place(after)

    def set_state(self, value: Value) -> None:
        """What the scheduler sees of this warp."""
        em = self.em
        index = em.resize(em.binary("mul", Value("%warp", "i32"), em.const("i32", warps.WARP_BYTES)), 64)
        record = em.offset(em.offset(self._header(), warps.HEADER_BYTES + warps.STATE), index)
        em.store(value, record, 8)

    def barrier_arrive(self, barrier: Value) -> None:
        """Count the warp's lanes without waiting."""
        self._add(self._cells(barrier, warps.ARRIVALS), self._count())

    def barrier_reduce(self, predicate: Value) -> None:
        """Add to the sums that the barrier's release publishes."""
        em = self.em
        header = self._header()
        self._add(header, em.intrinsic("ctpop", "i32", em.ballot(predicate)))
        self._add(em.offset(header, 4), self._count())

    def barrier_result(self) -> tuple[Value, Value]:
        """How many threads had a true predicate, and how many there were."""
        em = self.em
        header = self._header()
        trues = em.load("i32", em.offset(header, warps.PUBLISHED), 4)
        return trues, em.load("i32", em.offset(header, warps.PUBLISHED + 4), 4)
