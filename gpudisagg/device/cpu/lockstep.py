"""The lockstep model: the 32 lanes of a warp run each instruction together, as LLVM vectors.

Every block of the control flow (`flow.py`) is written twice. The *whole* form runs all 32 lanes and knows
it: no masks, and a branch that all lanes take the same way is a jump. Where lanes part, or some are missing
from the start, the *masked* form goes on: `places[b]` holds the lanes that wait to run block b, and the
first block with any runs next. A block where all 32 come together again goes back to the whole form, at the
head of a loop or outside loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpudisagg.device.cpu import ast, warps
from gpudisagg.device.cpu.analysis import CallGraph
from gpudisagg.device.cpu.driver import block_range
from gpudisagg.device.cpu.emitter import INVARIANT, ModuleText, Value, quoted
from gpudisagg.device.cpu.flow import Block, Flow
from gpudisagg.device.cpu.functions import ATTRIBUTES, FunctionLowering, params_size
from gpudisagg.device.cpu.lanes import WIDTH, LaneEmitter, constants
from gpudisagg.device.cpu.layout import ModuleLayout, frame_symbol
from gpudisagg.device.cpu.lowering import context as c
from gpudisagg.device.cpu.lowering import handler_of
from gpudisagg.device.cpu.strides import Strides
from gpudisagg.device.cpu.types import PRED, U32, ScalarType
from gpudisagg.device.cpu.uniform import Uniformity
from gpudisagg.device.errors import CompileError

_RETURN = '%"return"'


def _label(form: str, block: int) -> str:
    return f'%"{form}.{block}"'


class LockstepLowering(FunctionLowering):
    """Lowers a kernel for a warp."""

    em: LaneEmitter

    def __init__(
        self, layout: ModuleLayout, graph: CallGraph, em: LaneEmitter, function: ast.Function, plan: Uniformity
    ) -> None:
        super().__init__(layout, graph, em, function, _RETURN)
        self._pointers = set()
        self.plan = plan
        self.strides = Strides(plan)
        self.block = 0
        self.places: dict[int, Value] = {}
        self._live = em.slot("i32")
        self._declare_locals(function)
        self._start()

    def _declare_locals(self, function: ast.Function) -> None:
        em = self.em
        assert function.body is not None
        for variable in function.body.variables:
            if variable.space == "local":
                align = max(variable.align, 8)
                size = -(-max(variable.size, 1) // align) * align
                cell = em.entry_value(f"alloca [{size * WIDTH} x i8], align {align}", "ptr")
                steps = constants("i64", [lane * size for lane in range(WIDTH)])
                each = em.entry_value(f"getelementptr i8, {cell.typed}, {steps.typed}", "ptr", WIDTH)
                self.frame.locals[variable.name] = each
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
        self._index = {"x": x, "y": y, "z": z}
        em.code = code

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
        slot, have = self._register(name)
        wide = Value("", have.storage, lanes=self._width(name))
        return self.em.value(f"load {wide.full}, {slot.typed}", have.storage, wide.lanes)

    def store_register(self, name: str, value: Value) -> None:
        """Assign a register in the running lanes."""
        slot, _ = self._register(name)
        width = self._width(name)
        if width < value.lanes:
            raise self.error(f"internal error: {name} is not the same in all lanes")
        value = self.em.broadcast(value, width)
        if width > 1 and self.em.mask is not None and not self.plan.stays(name, self.block):
            value = self.em.select(self.em.running, value, self.load_register(name))
        self.em.line(f"store {value.typed}, {slot.typed}")

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

    def warp_index(self) -> Value:
        """%warpid."""
        return Value("%warp", "i32")

    # memory

    def address(self, operand: ast.Operand, space: str) -> Value:
        """A pointer, with a guess at how it goes from lane to lane."""
        pointer = super().address(operand, space)
        if pointer.lanes == 1 or not isinstance(operand, ast.Address):
            return pointer
        if not isinstance(operand.base, ast.Register):
            return pointer
        stride = self.strides.of(operand.base.name)
        if stride is None:
            return pointer
        return Value(
            pointer.text,
            "ptr",
            lanes=pointer.lanes,
            stride=stride,
            origin=self.load_register(operand.base.name),
        )

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
        self._state(em.binary("add", barrier, em.const("i32", 1)))
        em.module.declarations.add("declare i8 @llvm.coro.suspend(token, i1)")
        resumed = em.value("call i8 @llvm.coro.suspend(token none, i1 false)", "i8")
        after = em.new_label("resumed")
        em.line(f'switch {resumed.typed}, label %"suspend" [ i8 0, label {after} i8 1, label %"cleanup" ]')
        em.place(after)

    def _state(self, value: Value) -> None:
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

    # control flow

    def body(self) -> None:
        """All blocks in both forms."""
        em = self.em
        flow = self.plan.flow
        for index in range(len(flow.blocks)):
            self.places[index] = em.slot("i32")
        mask = Value("%mask", "i32")
        em.store(mask, self._live, 4)
        em.store(mask, self.places[0], 4)
        full = em.icmp("eq", mask, em.const("i32", -1))
        em.branch_if(full, _label("whole", 0), _label("masked", 0))
        for index, block in enumerate(flow.blocks):
            self.block = index
            self._whole(index, block)
            self._masked(index, block)

    def _instructions(self, block: Block) -> None:
        for instruction in block.instructions:
            self.line = instruction.line
            handler = handler_of(instruction)
            if handler is None:
                raise CompileError(f"unsupported instruction {instruction.text}", line=instruction.line)
            handler(self, instruction)

    def _condition(self, block: Block) -> Value:
        assert block.condition is not None
        return self.read(block.condition, PRED)

    def _switch(self, block: Block, labels: list[str]) -> None:
        em = self.em
        assert block.condition is not None
        index = self.read(block.condition, U32)
        wild = em.new_label("brx.wild")
        cases = " ".join(f"i32 {i}, label {label}" for i, label in enumerate(labels))
        em.line(f"switch {index.typed}, label {wild} [ {cases} ]")
        em.place(wild)
        self._trap()

    def _trap(self) -> None:
        self.em.call("llvm.trap", "void", [])
        self.em.line("unreachable")

    def _whole(self, index: int, block: Block) -> None:
        em = self.em
        em.place(_label("whole", index))
        em.enter(None)
        self._instructions(block)
        labels = [_label("whole", t) for t in block.targets]
        if block.ends == "exit":
            em.branch(_RETURN)
        elif block.ends == "trap":
            self._trap()
        elif block.ends == "switch":
            self._switch(block, labels)
        elif block.ends == "branch" and len(set(labels)) > 1:
            condition = self._condition(block)
            if condition.lanes == 1:
                em.branch_if(condition, labels[0], labels[1])
                return
            taken = em.ballot(condition)
            mixed, parted = em.new_label("mixed"), em.new_label("parted")
            em.branch_if(em.icmp("eq", taken, em.const("i32", -1)), labels[0], mixed)
            em.place(mixed)
            em.branch_if(em.icmp("eq", taken, em.const("i32", 0)), labels[1], parted)
            em.place(parted)
            self._go(block.targets[0], taken)
            self._go(block.targets[1], em.invert(taken))
            self._next(set(block.targets))
        else:
            em.branch(labels[0])

    def _masked(self, index: int, block: Block) -> None:
        em = self.em
        flow, waiting = self.plan.flow, self.plan.waiting[index]
        em.place(_label("masked", index))
        mask = em.load("i32", self.places[index], 4)
        em.store(em.const("i32", 0), self.places[index], 4)
        if index in flow.heads or flow.depth(index) == 0:
            partial = em.new_label("partial")
            em.branch_if(em.icmp("eq", mask, em.const("i32", -1)), _label("whole", index), partial)
            em.place(partial)
        em.enter(mask)
        if block.waits and waiting:
            self._let_others_come(index, block, mask)
        self._instructions(block)
        if block.ends == "exit":
            live = em.load("i32", self._live, 4)
            em.store(em.binary("and", live, em.invert(mask)), self._live, 4)
            self._next(waiting | {index})
        elif block.ends == "trap":
            self._trap()
        elif block.ends == "switch":
            sides = [em.new_label("side") for _ in block.targets]
            self._switch(block, sides)
            for side, target in zip(sides, block.targets, strict=True):
                em.place(side)
                self._go(target, mask)
                self._next({target, *waiting})
        elif block.ends == "branch" and len(set(block.targets)) > 1:
            condition = self._condition(block)
            if condition.lanes == 1:
                yes, no = em.new_label("yes"), em.new_label("no")
                em.branch_if(condition, yes, no)
                for side, target in zip((yes, no), block.targets, strict=True):
                    em.place(side)
                    self._go(target, mask)
                    self._next({target, *waiting})
                return
            taken = em.ballot(condition)
            self._go(block.targets[0], taken)
            self._go(block.targets[1], em.binary("xor", mask, taken))
            self._next({*block.targets, *waiting})
        else:
            self._go(block.targets[0], mask)
            self._next({block.targets[0], *waiting})

    def _go(self, target: int, lanes: Value) -> None:
        """The lanes wait to run the target next."""
        em = self.em
        if target in self.plan.flow.ends:
            live = em.load("i32", self._live, 4)
            em.store(em.binary("and", live, em.invert(lanes)), self._live, 4)
            return
        cell = self.places[target]
        em.store(em.binary("or", em.load("i32", cell, 4), lanes), cell, 4)

    def _any(self, block: int) -> Value:
        em = self.em
        return em.icmp("ne", em.load("i32", self.places[block], 4), em.const("i32", 0))

    def _next(self, candidates: set[int]) -> None:
        """Run the first of the blocks that has lanes. One has, unless lanes just went to an end."""
        em = self.em
        ends = {b for b in candidates if self.plan.flow.blocks[b].ends == "exit"} & (
            self.plan.flow.ends | {self.block}
        )
        ordered, ended = sorted(candidates - ends), bool(ends)
        for at, candidate in enumerate(ordered):
            if at == len(ordered) - 1 and not ended:
                em.branch(_label("masked", candidate))
                return
            skip = em.new_label("none")
            em.branch_if(self._any(candidate), _label("masked", candidate), skip)
            em.place(skip)
        em.branch(_RETURN)

    # warp operations under divergence

    def _missing(self, block: Block, here: Value) -> Value:
        """Whether lanes that this warp operation names are still elsewhere."""
        em = self.em
        instruction = block.instructions[0]
        mask = self.read(instruction.operands[-1], U32) if "sync" in instruction.modifiers else None
        live = em.load("i32", self._live, 4)
        absent = em.binary("and", live, em.invert(here))
        if mask is None:
            return em.icmp("ne", absent, em.const("i32", 0))
        absent = em.binary("and", absent, mask)
        some = em.icmp("ne", absent, em.const("i32", 0))
        if some.lanes == 1:
            return some
        found = em.value(f"bitcast {some.typed} to i32", "i32")
        return em.icmp("ne", em.binary("and", found, here), em.const("i32", 0))

    def _let_others_come(self, index: int, block: Block, mask: Value) -> None:
        """Let lanes that wait elsewhere go on until those named by the operation are here, or none can
        get here before they wait themselves.
        """
        em = self.em
        flow, waiting = self.plan.flow, self.plan.waiting
        perform, look = em.new_label("perform"), em.new_label("look")
        em.branch_if(self._missing(block, mask), look, perform)
        em.place(look)
        for other in sorted(waiting[index]):
            if not waiting[other]:
                continue
            turn, skip = em.new_label("turn"), em.new_label("skip")
            em.branch_if(self._any(other), turn, skip)
            em.place(turn)
            if flow.blocks[other].waits:
                ready = em.new_label("ready")
                there = em.load("i32", self.places[other], 4)
                em.branch_if(self._missing(flow.blocks[other], there), skip, ready)
                em.place(ready)
            em.store(mask, self.places[index], 4)
            em.branch(_label("masked", other))
            em.place(skip)
        em.branch(perform)
        em.place(perform)


_PARAMETERS = (
    "ptr noalias align 16 dereferenceable({size}) %params, ptr noalias align 8 dereferenceable(128) %ctx, "
    "i32 %warp, i32 %mask, i32 %nx, i32 %nxy, i32 %ctaidx, i32 %ctaidy, i32 %ctaidz"
)
_DECLARATIONS = (
    "declare token @llvm.coro.id(i32, ptr, ptr, ptr)",
    "declare i64 @llvm.coro.size.i64()",
    "declare ptr @llvm.coro.begin(token, ptr)",
    "declare i8 @llvm.coro.suspend(token, i1)",
    "declare void @llvm.coro.end(ptr, i1, token)",
)


def kernel(
    layout: ModuleLayout,
    graph: CallGraph,
    text: ModuleText,
    function: ast.Function,
    plan: Uniformity,
    *,
    barriers: bool,
) -> None:
    """Define the kernel: its warp, its block, its range of blocks."""
    em = LaneEmitter(text)
    low = LockstepLowering(layout, graph, em, function, plan)
    low.body()
    name = function.name
    size = max(params_size(function), 8)
    warp = quoted(name + ".warp")
    parameters = _PARAMETERS.format(size=size)
    if not barriers:
        text.definitions += [
            f"define internal void @{warp}({parameters}) {ATTRIBUTES} {{",
            '"entry":',
            *em.entry,
            '  br label %"body"',
            '"body":',
            *em.code,
            '"return":',
            "  ret void",
            "}",
            warps.block_function(name, warp, size, ATTRIBUTES, frame=None),
            *block_range(name, size),
        ]
        return
    code, em.code = em.code, []
    low._state(em.const("i32", warps.DONE))
    tail, em.code = em.code, code
    text.declarations.update((*_DECLARATIONS, *warps.SCHEDULER_DECLARATIONS))
    text.helpers["warps"] = warps.SCHEDULER
    blank, frame = quoted(name + ".blank"), quoted(frame_symbol(name))
    text.definitions += [
        f"@{blank} = internal constant [{max(size, 128)} x i8] zeroinitializer, align 64",
        f"define internal ptr @{warp}({parameters}, ptr %frame) presplitcoroutine {ATTRIBUTES} {{",
        '"entry":',
        "  %id = call token @llvm.coro.id(i32 64, ptr null, ptr null, ptr null)",
        "  %size = call i64 @llvm.coro.size.i64()",
        "  %asking = icmp eq ptr %frame, null",
        '  br i1 %asking, label %"ask", label %"start"',
        '"ask":',
        "  %size.p = inttoptr i64 %size to ptr",
        "  ret ptr %size.p",
        '"start":',
        "  %handle = call ptr @llvm.coro.begin(token %id, ptr %frame)",
        *em.entry,
        '  br label %"body"',
        '"body":',
        *em.code,
        '"return":',
        *tail,
        "  %last = call i8 @llvm.coro.suspend(token none, i1 true)",
        '  switch i8 %last, label %"suspend" [ i8 0, label %"never" i8 1, label %"cleanup" ]',
        '"never":',
        "  unreachable",
        '"cleanup":',
        '  br label %"suspend"',
        '"suspend":',
        "  call void @llvm.coro.end(ptr %handle, i1 false, token none)",
        "  ret ptr %handle",
        "}",
        f"""define i64 @{frame}() nounwind {{
  %size.p = call ptr @{warp}(ptr @{blank}, ptr @{blank}, \
i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, i32 0, ptr null)
  %size = ptrtoint ptr %size.p to i64
  %up = add i64 %size, 63
  %stride = and i64 %up, -64
  ret i64 %stride
}}""",
        warps.block_function(name, warp, size, ATTRIBUTES, frame=frame),
        *block_range(name, size),
    ]
