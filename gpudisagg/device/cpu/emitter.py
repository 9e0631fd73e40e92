"""Writes LLVM IR: the only place that knows its syntax.

A `Value` is what PTX threads hold: its `type` is that of one thread, `lanes` says how many threads' values it
carries. Lowerings combine values with the methods here and never spell a vector type, so one table serves
the models that run a thread at a time and the one that runs a warp at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gpudisagg.device.cpu.types import llvm_bits

if TYPE_CHECKING:
    from gpudisagg.device.cpu.checks import Checks
    from gpudisagg.device.cpu.sources import SourceLines


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value or constant and the LLVM type of one lane.

    A pointer with many lanes may carry what its addresses are likely to look like: `stride` bytes from lane
    to lane, to be judged on the integers of `origin`; where those are indices, `step` from lane to lane, and
    `near` has the pointers of the lanes that begin each half of a warp. `narrow`: the same addresses as a
    base and an unsigned i32 of each lane: hosts gather 16 lanes at a time by such.
    """

    text: str
    type: str
    constant: bool = False
    lanes: int = 1
    stride: int | None = None
    origin: Value | None = None
    step: int | None = None
    unsigned: bool = False
    near: tuple[Value, ...] = ()
    narrow: tuple[Value, Value] | None = None

    @property
    def full(self) -> str:
        """The LLVM type of the whole value."""
        return widened(self.type, self.lanes)

    @property
    def typed(self) -> str:
        """`type text`, as operands are written."""
        return f"{self.full} {self.text}"


def widened(type_: str, lanes: int) -> str:
    """The LLVM type of that many lanes."""
    return type_ if lanes == 1 else f"<{lanes} x {type_}>"


def _overload(type_: str, lanes: int) -> str:
    """A type as it is written in the name of an overloaded intrinsic."""
    suffix = {"float": "f32", "double": "f64", "half": "f16"}.get(type_, type_)
    return suffix if lanes == 1 else f"v{lanes}{suffix}"


def quoted(name: str) -> str:
    """A name as LLVM quotes it; anything unusual is escaped."""
    safe = "".join(c if (c.isalnum() and c.isascii()) or c in "._$@%-" else f"\\{ord(c):02X}" for c in name)
    return f'"{safe}"'


@dataclass(frozen=True)
class DeviceFunction:
    """A `.func` as LLVM has it."""

    header: str
    body: tuple[str, ...]

    def defined(self, linkage: str) -> str:
        """Its definition."""
        return "\n".join((f"define {linkage} void {self.header} {{", *self.body, "}"))

    def declared(self) -> str:
        """Its declaration, where another module has it with linkage `hidden`."""
        return f"declare hidden void {self.header}"


@dataclass
class ModuleText:
    """What the functions of one LLVM module share: declarations and finished definitions."""

    declarations: set[str] = field(default_factory=set)
    definitions: list[str] = field(default_factory=list)
    helpers: dict[str, str] = field(default_factory=dict)
    checks: Checks | None = None
    places: SourceLines | None = None

    def render(self, *others: str) -> str:
        """The module's text, without target lines. `others`: more definitions, before its own."""
        parts = [*sorted(self.declarations), *self.helpers.values(), *others, *self.definitions, *_METADATA]
        return "\n".join(parts)


# !1 is the access group of memory accesses that no two threads of a kernel order between them.
_METADATA = (
    "!0 = !{}",
    "!1 = distinct !{}",
    "!2 = distinct !{!2, !3}",
    '!3 = !{!"llvm.loop.parallel_accesses", !1}',
)
INVARIANT = ", !invariant.load !0"
PARALLEL = ", !llvm.access.group !1"
PARALLEL_LOOP = ", !llvm.loop !2"

ORDERINGS = {
    "relaxed": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
    "sc": "seq_cst",
}


class Emitter:
    """Appends instructions to one LLVM function."""

    def __init__(self, module: ModuleText, *, parallel: bool) -> None:
        self.module = module
        self.parallel = PARALLEL if parallel else ""
        self.entry: list[str] = []
        self.code: list[str] = []
        self._values = 0
        self._labels = 0

    # text

    def line(self, text: str) -> None:
        """An instruction without a result."""
        self.code.append("  " + text)

    def value(self, expression: str, type_: str, lanes: int = 1) -> Value:
        """An instruction with a result."""
        self._values += 1
        name = f"%v{self._values}"
        self.code.append(f"  {name} = {expression}")
        return Value(name, type_, lanes=lanes)

    def entry_value(self, expression: str, type_: str, lanes: int = 1) -> Value:
        """An instruction in the entry block, executed once and first."""
        self._values += 1
        name = f"%v{self._values}"
        self.entry.append(f"  {name} = {expression}")
        return Value(name, type_, lanes=lanes)

    def slot(self, type_: str, lanes: int = 1) -> Value:
        """A stack cell for a register; starts as zero so that no undefined value is ever branched on."""
        full = widened(type_, lanes)
        cell = self.entry_value(f"alloca {full}", "ptr")
        self.entry.append(f"  store {full} zeroinitializer, ptr {cell.text}")
        return cell

    # lanes

    def broadcast(self, a: Value, lanes: int) -> Value:
        """One lane's value in every lane."""
        if a.lanes == lanes:
            return a
        full = widened(a.type, lanes)
        if a.constant:
            return Value(f"splat ({a.type} {a.text})", a.type, True, lanes)
        first = self.value(f"insertelement {full} poison, {a.typed}, i64 0", a.type, lanes)
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.value(f"shufflevector {first.typed}, {full} poison, {zeros}", a.type, lanes)

    def level(self, *values: Value) -> list[Value]:
        """The values with as many lanes as the widest of them."""
        lanes = max(value.lanes for value in values)
        return [self.broadcast(value, lanes) for value in values]

    # constants

    def const(self, type_: str, value: int) -> Value:
        """An integer constant (wrapped to the type), or a float by its bits."""
        bits = llvm_bits(type_)
        value &= (1 << bits) - 1
        if type_ == "i1":
            return Value("true" if value else "false", type_, True)
        signed = value - (1 << bits) if value >> (bits - 1) else value
        if type_ in ("float", "double", "half"):
            return Value(f"bitcast (i{bits} {signed} to {type_})", type_, True)
        return Value(str(signed), type_, True)

    def real(self, type_: str, value: float) -> Value:
        """A floating constant by value."""
        import struct

        code = {"float": ("<f", "<I"), "double": ("<d", "<Q")}[type_]
        return self.const(type_, struct.unpack(code[1], struct.pack(code[0], value))[0])

    # arithmetic

    def binary(self, op: str, a: Value, b: Value) -> Value:
        """`add`, `fmul`, `shl`, ... of two values of one type."""
        a, b = self.level(a, b)
        return self.value(f"{op} {a.typed}, {b.text}", a.type, a.lanes)

    def icmp(self, predicate: str, a: Value, b: Value) -> Value:
        """Integer comparison."""
        a, b = self.level(a, b)
        return self.value(f"icmp {predicate} {a.typed}, {b.text}", "i1", a.lanes)

    def fcmp(self, predicate: str, a: Value, b: Value) -> Value:
        """Floating comparison."""
        a, b = self.level(a, b)
        return self.value(f"fcmp {predicate} {a.typed}, {b.text}", "i1", a.lanes)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """`condition ? a : b`, without a branch."""
        condition, a, b = self.level(condition, a, b)
        return self.value(f"select {condition.typed}, {a.typed}, {b.typed}", a.type, a.lanes)

    def invert(self, a: Value) -> Value:
        """Bitwise not."""
        return self.binary("xor", a, self.const(a.type, -1))

    def fneg(self, a: Value) -> Value:
        """Floating negation: flips the sign bit, of a NaN too."""
        return self.value(f"fneg {a.typed}", a.type, a.lanes)

    def cast(self, op: str, a: Value, type_: str) -> Value:
        """A conversion instruction by name."""
        return self.value(f"{op} {a.typed} to {widened(type_, a.lanes)}", type_, a.lanes)

    def bitcast(self, a: Value, type_: str) -> Value:
        """The same bits as another type of the same width."""
        return a if a.type == type_ else self.cast("bitcast", a, type_)

    def resize(self, a: Value, bits: int, *, signed: bool = False) -> Value:
        """An integer, truncated or extended."""
        have = llvm_bits(a.type)
        if have == bits:
            return a
        return self.cast("trunc" if have > bits else "sext" if signed else "zext", a, f"i{bits}")

    def intrinsic(self, name: str, type_: str, *arguments: Value) -> Value:
        """`llvm.<name>` overloaded on its result type. An i1 argument is an option, the same in all lanes."""
        lanes = max((a.lanes for a in arguments), default=1)
        levelled = [a if a.type == "i1" else self.broadcast(a, lanes) for a in arguments]
        return self._call(f"llvm.{name}.{_overload(type_, lanes)}", type_, levelled, lanes)

    def call(self, name: str, type_: str, arguments: Sequence[Value]) -> Value:
        """A call of an external function or intrinsic; one with lanes must be an intrinsic whose name ends
        in its result's and its argument's type.
        """
        if ".sat." in name and name.startswith("llvm.fpto") and arguments[0].type in ("float", "double"):
            return self._saturated(arguments[0], type_, signed=name.startswith("llvm.fptosi"))
        lanes = max((a.lanes for a in arguments), default=1)
        if lanes > 1:
            stem = name.rsplit(".", 2)[0]
            name = f"{stem}.{_overload(type_, lanes)}.{_overload(arguments[0].type, lanes)}"
        return self._call(name, type_, arguments, lanes)

    def _saturated(self, x: Value, type_: str, *, signed: bool) -> Value:
        """A float as the nearest integer that is not beyond it, NaN as 0. LLVM's own intrinsic is a chain of
        scalar instructions for each lane.
        """
        bits = llvm_bits(type_)
        top = self.real(x.type, 2.0 ** (bits - signed))
        lowest = self.real(x.type, -(2.0 ** (bits - 1)) if signed else -1.0)
        inside = self.fcmp("oge" if signed else "ogt", x, lowest)
        inside = self.binary("and", inside, self.fcmp("olt", x, top))
        least = self.const(type_, 1 << (bits - 1) if signed else 0)
        if signed:
            least = self.select(self.fcmp("uno", x, x), self.const(type_, 0), least)
        most = self.const(type_, (1 << (bits - signed)) - 1)
        outside = self.select(self.fcmp("oge", x, top), most, least)
        # What the conversion gives for others is poison, which a select doesn't let through.
        return self.select(inside, self.cast("fptosi" if signed else "fptoui", x, type_), outside)

    def _call(self, name: str, type_: str, arguments: Sequence[Value], lanes: int) -> Value:
        full = widened(type_, lanes)
        self.module.declarations.add(f"declare {full} @{name}({', '.join(a.full for a in arguments)})")
        expression = f"call {full} @{name}({', '.join(a.typed for a in arguments)})"
        if type_ == "void":
            self.line(expression)
            return Value("", "void")
        return self.value(expression, type_, lanes)

    # memory

    def pointer(self, address: Value) -> Value:
        """An integer address as a pointer. Never a GEP from null: LLVM would drop the store."""
        return self.cast("inttoptr", address, "ptr")

    def offset(self, base: Value, offset: Value | int) -> Value:
        """`base + offset` bytes."""
        amount = offset if isinstance(offset, Value) else self.const("i64", offset)
        if amount.text == "0":
            return base
        lanes = max(base.lanes, amount.lanes)
        found = self.value(f"getelementptr i8, {base.typed}, {amount.typed}", "ptr", lanes)
        if (base.origin is not None or base.narrow is not None) and amount.lanes == 1:
            near = tuple(self.offset(one, amount) for one in base.near)
            narrow = (
                (self.offset(base.narrow[0], amount), base.narrow[1]) if base.narrow is not None else None
            )
            return replace(base, text=found.text, near=near, narrow=narrow)
        return found

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
        """A load; `ordering` makes it atomic."""
        if ordering is not None:
            return self.value(f"load atomic {type_}, {pointer.typed} {ordering}, align {align}", type_)
        mark = "volatile " if volatile else ""
        return self.value(f"load {mark}{type_}, {pointer.typed}, align {align}{metadata}", type_)

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
        """A store; `ordering` makes it atomic."""
        if ordering is not None:
            self.line(f"store atomic {value.typed}, {pointer.typed} {ordering}, align {align}")
        else:
            mark = "volatile " if volatile else ""
            self.line(f"store {mark}{value.typed}, {pointer.typed}, align {align}{metadata}")

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
        """Several values side by side."""
        size = llvm_bits(type_) // 8
        return [
            self.load(
                type_,
                self.offset(pointer, index * size),
                align,
                volatile=volatile,
                ordering=ordering,
                metadata=metadata,
            )
            for index in range(count)
        ]

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
        """Several values side by side."""
        size = llvm_bits(values[0].type) // 8
        for index, value in enumerate(values):
            place = self.offset(pointer, index * size)
            self.store(value, place, align, volatile=volatile, ordering=ordering, metadata=metadata)

    # blocks

    def new_label(self, hint: str = "b") -> str:
        """A fresh block name, not yet placed."""
        self._labels += 1
        return f'%"{hint}.{self._labels}"'

    def place(self, label: str) -> None:
        """Start a block. The one before must have ended."""
        self.code.append(f"{label[1:]}:")

    def branch(self, label: str) -> None:
        """End the block with a jump."""
        self.line(f"br label {label}")

    def branch_if(self, condition: Value, yes: str, no: str) -> None:
        """End the block with a choice."""
        self.line(f"br {condition.typed}, label {yes}, label {no}")
