"""What a lowering works with: operands to values, values to registers, addresses to pointers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.emitter import INVARIANT, Emitter, Value
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.spinning import spins_of
from gpudisagg.device.cpu.types import U32, U64, Kind, ScalarType, llvm_bits
from gpudisagg.device.errors import CompileError

if TYPE_CHECKING:
    from gpudisagg.device.cpu.layout import ModuleLayout

# Publishes a value to the warp; gives, for each list of source lanes, each lane's value from its source.
Gather: TypeAlias = "Callable[[Value, list[list[int]]], list[Value]]"
Handler: TypeAlias = "Callable[[Lowering, ast.Instruction], None]"

# gpud_kernel_context, by offset.
GRID, BLOCK, DYNAMIC_SHARED = 0, 12, 24
THREAD_SLOT, THREAD_COUNT, GRID_ID = 28, 32, 36
SHARED, SCRATCH, CURRENT_BLOCK, CURRENT_THREAD = 40, 48, 56, 68
PRINT, FAILED, FILE, FUNCTION, LINE = 72, 80, 88, 96, 104
WORKSPACE, PAUSE, TAKE, GIVE, SITE = 128, 136, 144, 152, 160


# Nobody listens in a context without one.
_PAUSE = f"""
define internal void @gpud.pause(ptr %ctx) noinline nounwind {{
entry:
  %at = getelementptr i8, ptr %ctx, i64 {PAUSE}
  %function = load ptr, ptr %at, align 8
  %none = icmp eq ptr %function, null
  br i1 %none, label %done, label %call
call:
  call void %function(ptr %ctx)
  br label %done
done:
  ret void
}}
"""


@dataclass
class Frame:
    """The names of one function activation; emit-time inlining nests them."""

    function: ast.Function
    exit_label: str
    prefix: str
    registers: dict[str, tuple[Value, ScalarType]] = field(default_factory=dict)
    locals: dict[str, Value] = field(default_factory=dict)
    params: dict[str, Value] = field(default_factory=dict)
    labels: set[str] | None = None
    stack: tuple[Value, Value] | None = None


class Lowering:
    """State of one LLVM function being written. The execution models subclass it."""

    def __init__(self, layout: ModuleLayout, emitter: Emitter, frame: Frame) -> None:
        self.layout = layout
        self.em = emitter
        self.frame = frame
        self.line = frame.function.line
        self._spins: dict[str, frozenset[int]] = {}

    def options(self, instruction: ast.Instruction) -> Options:
        """The instruction's modifiers."""
        return Options(instruction)

    def operands(
        self, instruction: ast.Instruction, least: int, most: int | None = None
    ) -> tuple[ast.Operand, ...]:
        """The operands, counted."""
        count = len(instruction.operands)
        if not least <= count <= (least if most is None else most):
            raise CompileError(f"{instruction.text} has {count} operands", line=instruction.line)
        return instruction.operands

    def error(self, message: str) -> CompileError:
        """An error at the current instruction."""
        return CompileError(message, line=self.line)

    # the execution model

    def launch_field(self, offset: int) -> Value:
        """A u32 of the context that stays the same for the whole launch."""
        pointer = self.em.offset(Value("%ctx", "ptr"), offset)
        return self.em.load("i32", pointer, 4, metadata=INVARIANT)

    def shared_base(self) -> Value:
        """Pointer to the block's shared memory."""
        pointer = self.em.offset(Value("%ctx", "ptr"), SHARED)
        return self.em.load("ptr", pointer, 8, metadata=INVARIANT)

    def load_param(self, type_: str, offset: int, align: int) -> Value:
        """A kernel parameter."""
        pointer = self.em.offset(Value("%params", "ptr"), offset)
        return self.em.load(type_, pointer, align, metadata=INVARIANT)

    def thread_index(self, axis: str) -> Value:
        """%tid.x, .y or .z."""
        return Value(f"%tid{axis}", "i32")

    def linear(self) -> Value:
        """The thread's index in its block, x fastest."""
        return Value("%linear", "i32")

    def first_thread(self) -> Value:
        """The running thread's index, or that of the first of those that run together."""
        return self.linear()

    def warp_index(self) -> Value:
        """Which warp of the block the thread is in."""
        return self.em.binary("lshr", self.linear(), self.em.const("i32", 5))

    def each_lane(
        self, values: Sequence[Value], body: Callable[[Sequence[Value]], Value], *, always: bool = False
    ) -> Value:
        """`body` of the values, lane after lane where a value (or, with `always`, the effect) is the
        lane's own.
        """
        return body(values)

    def exchange(self, value: Value, mask: Value) -> Value:
        """Publish an i32 to the warp, wait for the lanes in `mask`; gives a pointer to the warp's 32
        values.
        """
        raise self.error("a warp operation outside the coroutine model")

    def shuffled(self, value: Value, mask: Value, source: Value, places: list[int] | None) -> Value:
        """Each lane's word from its source lane; `places` are all sources, where known."""
        em = self.em
        published = self.exchange(value, mask)
        place = em.offset(published, em.resize(em.binary("shl", source, em.const("i32", 2)), 64))
        return em.load("i32", place, 4)

    def lane_constant(self, values: list[int], type_: str) -> Value:
        """A constant of each lane's own."""
        em = self.em
        name = "gpud.lanes." + ".".join(map(str, values)) + f".{type_}"
        row = ", ".join(f"{type_} {value}" for value in values)
        em.module.helpers[name] = f'@"{name}" = internal constant [32 x {type_}] [{row}], align 64'
        lane = em.resize(em.binary("and", self.linear(), em.const("i32", 31)), 64)
        place = em.binary("mul", lane, em.const("i64", llvm_bits(type_) // 8))
        return em.load(type_, em.offset(Value(f'@"{name}"', "ptr"), place), llvm_bits(type_) // 8)

    def gather(self, value: Value, sources: list[list[int]]) -> list[Value]:
        """Each lane's value from its source lane, for each list of source lanes. All lanes take part."""
        em = self.em
        bits = llvm_bits(value.type)
        whole = em.bitcast(value, f"i{bits}")
        pieces: list[list[Value]] = []
        for shift in range(0, bits, 32):
            word = em.resize(em.binary("lshr", whole, em.const(whole.type, shift)) if shift else whole, 32)
            published = self.exchange(word, em.const("i32", -1))
            places = [self.lane_constant([4 * s for s in lanes], "i64") for lanes in sources]
            pieces.append([em.load("i32", em.offset(published, place), 4) for place in places])
        if bits == 32:
            return [em.bitcast(word, value.type) for word in pieces[0]]
        joined = [
            em.binary("or", em.resize(low, 64), em.binary("shl", em.resize(high, 64), em.const("i64", 32)))
            for low, high in zip(*pieces, strict=True)
        ]
        return [em.bitcast(word, value.type) for word in joined]

    def outlined(
        self,
        name: str,
        values: Sequence[Value],
        build: Callable[[Emitter, Gather, Sequence[Value]], list[Value]],
    ) -> list[Value]:
        """What `build` makes of the values; where that is worth it, in a function of its own."""
        return build(self.em, self.gather, values)

    def warp_group(self) -> Value:
        """After `exchange`: the lanes that took part."""
        raise self.error("a warp operation outside the coroutine model")

    def converged(self, place: int) -> Value:
        """The lanes that are at this place together."""
        raise self.error("a warp operation outside the coroutine model")

    def waits_at(self, instruction: ast.Instruction) -> bool:
        """Whether the branch closes a loop that waits for what others write."""
        function = self.frame.function
        if function.name not in self._spins:
            self._spins[function.name] = spins_of(function).branches
        return instruction.line in self._spins[function.name]

    def pause(self) -> None:
        """Let other threads and blocks run: this one waits for what they write."""
        em = self.em
        em.module.helpers["pause"] = _PAUSE
        em.line("call void @gpud.pause(ptr %ctx)")

    def block_barrier(self, barrier: Value, count: Value) -> None:
        """Wait at a block barrier; `count` threads, or 0 for the whole block."""
        raise self.error("a barrier outside the coroutine model")

    def barrier_reduce(self, predicate: Value) -> None:
        """Contribute to the reduction of the next block barrier."""
        raise self.error("a barrier outside the coroutine model")

    def barrier_result(self) -> tuple[Value, Value]:
        """Of the barrier just passed: how many threads contributed a true predicate, and how many any."""
        raise self.error("a barrier outside the coroutine model")

    def barrier_arrive(self, barrier: Value) -> None:
        """Count towards a block barrier without waiting."""
        raise self.error("a barrier outside the coroutine model")

    # the function being lowered: filled in by `functions.FunctionLowering`

    thread_exit: str | None = None

    def read_carry(self) -> Value:
        """CC.CF."""
        raise NotImplementedError

    def write_carry(self, value: Value) -> None:
        """Set CC.CF."""
        raise NotImplementedError

    def local_ranges(self) -> list[tuple[Value, int]]:
        """The .local variables of this thread that are known here, with their sizes."""
        raise NotImplementedError

    def stack(self, size: int) -> tuple[Value, Value]:
        """The current call's memory for alloca, and how much of it is used."""
        raise NotImplementedError

    def params_size(self) -> int:
        """Bytes of the kernel's parameter buffer."""
        raise NotImplementedError

    def label(self, name: str) -> str:
        """A branch target as an LLVM label."""
        raise NotImplementedError

    def call(self, function: ast.Function, cells: list[Value]) -> None:
        """Call a device function with a cell per return value and parameter."""
        raise NotImplementedError

    def indirect_call(self, target: Value, candidates: Sequence[ast.Function], cells: list[Value]) -> None:
        """Call the function at an address."""
        raise NotImplementedError

    def candidates(self, results: int, arguments: int) -> Sequence[ast.Function]:
        """The functions that an indirect call may mean."""
        raise NotImplementedError

    # registers

    def _register(self, name: str) -> tuple[Value, ScalarType]:
        known = self.frame.registers.get(name)
        if known is None:
            body = self.frame.function.body
            scalar = body.registers.get(name) if body is not None else None
            if scalar is None:
                raise self.error(f"unknown register {name}")
            known = (self.em.slot(scalar.storage), scalar)
            self.frame.registers[name] = known
        return known

    def read(self, operand: ast.Operand, scalar: ScalarType) -> Value:
        """An operand as a value of `scalar`'s storage type."""
        em = self.em
        target = scalar.storage
        if isinstance(operand, ast.Register):
            value = self._read_register(operand.name, scalar)
            if operand.negated:
                if target != "i1":
                    raise self.error("'!' takes a predicate")
                value = em.invert(value)
            return value
        if isinstance(operand, ast.Integer):
            if target in ("float", "double") and scalar.kind is Kind.FLOAT:
                return em.real(target, float(operand.value))
            return em.const(target, int(operand.value != 0) if target == "i1" else operand.value)
        if isinstance(operand, ast.Float):
            return self._float_literal(operand, scalar)
        if isinstance(operand, ast.Symbol):
            return em.resize(self.symbol(operand, for_memory=False), llvm_bits(target))
        raise self.error("this operand can't be read as a value")

    def _read_register(self, name: str, scalar: ScalarType) -> Value:
        from gpudisagg.device.cpu.lowering.special import special_register

        body = self.frame.function.body
        if body is not None and name in body.registers:
            value = self.load_register(name)
            return self.convert_bits(value, scalar.storage, signed=scalar.signed)
        return self.em.resize(special_register(self, name), llvm_bits(scalar.storage))

    def _float_literal(self, operand: ast.Float, scalar: ScalarType) -> Value:
        import struct

        bits = operand.bits
        target = scalar.storage
        if target in ("float", "double") and operand.width != llvm_bits(target):
            if operand.width == 64:
                value = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
                try:
                    bits = int.from_bytes(struct.pack(">f", value), "big")
                except OverflowError:
                    bits = 0x7F800000 if value > 0 else 0xFF800000
            else:
                value = struct.unpack(">f", bits.to_bytes(4, "big"))[0]
                bits = int.from_bytes(struct.pack(">d", value), "big")
        elif operand.width != llvm_bits(target):
            raise self.error("a floating literal doesn't fit here")
        return self.em.const(target, bits)

    def convert_bits(self, value: Value, type_: str, *, signed: bool = False) -> Value:
        """The same bits in another storage type; integers may change width."""
        em = self.em
        if value.type == type_:
            return value
        have, want = llvm_bits(value.type), llvm_bits(type_)
        if have == want:
            return em.bitcast(value, type_)
        if "i1" in (value.type, type_):
            raise self.error("a predicate and a number can't stand for each other")
        integer = em.bitcast(value, f"i{have}")
        return em.bitcast(em.resize(integer, want, signed=signed), type_)

    def write(self, operand: ast.Operand, value: Value, scalar: ScalarType) -> None:
        """Assign a register; `scalar` says how to extend into a wider one."""
        if isinstance(operand, ast.Sink):
            return
        if not isinstance(operand, ast.Register) or operand.negated:
            raise self.error("the destination must be a register")
        _, have = self._register(operand.name)
        self.store_register(operand.name, self.convert_bits(value, have.storage, signed=scalar.signed))

    def store_register(self, name: str, value: Value) -> None:
        """Assign a register a value of its own type."""
        slot, have = self._register(name)
        self.em.store(value, slot, max(have.bytes, 1))

    def load_register(self, name: str) -> Value:
        """A register's value."""
        slot, have = self._register(name)
        return self.em.load(have.storage, slot, max(have.bytes, 1))

    # addresses

    def symbol(self, symbol: ast.Symbol, *, for_memory: bool) -> Value:
        """The address a name stands for, as an i64 in its own state space."""
        em = self.em
        name, offset = symbol.name, symbol.offset
        if name in self.frame.locals:
            base = em.cast("ptrtoint", self.frame.locals[name], "i64")
        elif name in self.frame.params:
            base = em.cast("ptrtoint", self.frame.params[name], "i64")
        elif (param := self.layout.param_offset(self.frame.function, name)) is not None:
            whole = em.cast("ptrtoint", Value("%params", "ptr"), "i64")
            base = em.binary("add", whole, em.const("i64", param))
        elif (shared := self.layout.shared_offset(self.frame.function.name, name)) is not None:
            base = self.dynamic_shared() if shared < 0 else em.const("i64", shared)
        elif name in self.layout.globals:
            base = em.cast("ptrtoint", Value(self.layout.globals[name].reference, "ptr", True), "i64")
        elif name in self.layout.module.functions and not for_memory:
            base = em.cast(
                "ptrtoint", Value(self.layout.function_address(name, self.line), "ptr", True), "i64"
            )
        else:
            raise self.error(f"unknown name {name}")
        return em.binary("add", base, em.const("i64", offset)) if offset else base

    def dynamic_shared(self) -> Value:
        """Offset of the dynamic part of shared memory; the same for every kernel of a module."""
        return self.em.const("i64", self.layout.dynamic_offset)

    def address(self, operand: ast.Operand, space: str) -> Value:
        """A pointer for a memory operand of the given state space."""
        em = self.em
        if not isinstance(operand, ast.Address):
            raise self.error("expected an address")
        base, offset = operand.base, operand.offset
        if isinstance(base, ast.Symbol):
            if base.name in self.frame.locals or base.name in self.frame.params:
                known = self.frame.locals.get(base.name) or self.frame.params[base.name]
                return em.offset(known, base.offset + offset)
            address = self.symbol(base, for_memory=True)
        elif isinstance(base, ast.Integer):
            address = em.const("i64", base.value)
        else:
            body = self.frame.function.body
            scalar = body.registers.get(base.name) if body is not None else None
            address = em.resize(self.read(base, U64 if scalar is None or scalar.bits == 64 else U32), 64)
        if offset:
            address = em.binary("add", address, em.const("i64", offset))
        if space == "shared":
            return em.offset(self.shared_base(), address)
        return em.pointer(address)
