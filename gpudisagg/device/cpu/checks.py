"""Checked code: before each access of a kernel, a call that doesn't come back if the access is a bad one.

What is asked is `csrc/engine/memcheck.c`, through the context; what it needs to say about the access is a
constant (`gpud_check_site` of kernel_abi.h). Kernels are then compiled thread by thread: an access has one
address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.analysis import indirect_arguments
from gpudisagg.device.cpu.emitter import INVARIANT, ModuleText, Value
from gpudisagg.device.cpu.sources import Place, SourceLines
from gpudisagg.device.cpu.types import PRED, TYPES, U32, U64
from gpudisagg.device.errors import CompileError

if TYPE_CHECKING:
    from gpudisagg.device.cpu.functions import FunctionLowering
    from gpudisagg.device.cpu.lowering.context import Lowering

# gpud_kernel_context, by offset.
_CHECK, _CHECKED = 112, 120
_SPACES = ("global", "shared", "local", "const", "param", "generic")
_READ, _WRITE, _ATOMIC, _CALL = 0, 1, 2, 3
_FRAME = "%check.frame"
# Bytes to leave between variables, so that past the end of one isn't in the next.
MARGIN = 512
# Opcodes with addresses at which nothing is read or written: hints, and queries about the address.
_HARMLESS = frozenset(
    {"prefetch", "prefetchu", "applypriority", "discard", "cvta", "isspacep", "mov", "call", "createpolicy",
     "mapa", "getctarank"}
)  # fmt: skip
# Those whose lowering knows where each lane's elements are, and calls `Checks.touch`.
_TOUCHING = frozenset({"wmma"})
_SIMPLE = {"ld": (1, _READ), "ldu": (1, _READ), "st": (0, _WRITE), "atom": (1, _ATOMIC), "red": (0, _ATOMIC)}
_WIDTHS = {"v2": 2, "v4": 4, "v8": 8}
_MBARRIER = 8


@dataclass(frozen=True)
class Access:
    """`size` bytes at a memory operand; `lanes`: only those of a warp below it make the access."""

    operand: ast.Address
    space: str
    kind: int
    size: int
    alignment: int
    lanes: int = 32
    counted: ast.Operand | None = None  # the bytes, where the program says how many


def space_of(instruction: ast.Instruction) -> str:
    """The state space that the instruction names."""
    named = [m.partition("::")[0] for m in instruction.modifiers]
    return next((m for m in named if m in _SPACES), "generic")


def accesses(instruction: ast.Instruction) -> list[Access] | None:
    """What the instruction reads and writes in memory; None: not known."""
    addresses = [o for o in instruction.operands if isinstance(o, ast.Address)]
    if not addresses or instruction.opcode in _HARMLESS | _TOUCHING:
        return []
    return _known(instruction, addresses, space_of(instruction)) or None


def _known(instruction: ast.Instruction, addresses: list[ast.Address], space: str) -> list[Access]:
    opcode, modifiers = instruction.opcode, instruction.modifiers
    if opcode in _SIMPLE:
        return _simple(instruction, space)
    if opcode == "cp" and "mbarrier" not in modifiers and "bulk" not in modifiers and len(addresses) == 2:
        return _copy(instruction, addresses)
    if opcode in ("ldmatrix", "stmatrix"):
        rows = 8 * next((int(m[1]) for m in modifiers if m in ("x1", "x2", "x4")), 1)
        return [Access(addresses[0], space, _READ if opcode == "ldmatrix" else _WRITE, 16, 16, lanes=rows)]
    if opcode == "mbarrier" or (opcode == "cp" and "mbarrier" in modifiers):
        return [Access(a, space, _ATOMIC, _MBARRIER, _MBARRIER) for a in addresses]
    return []


def _simple(instruction: ast.Instruction, space: str) -> list[Access]:
    """Loads, stores, atomics: as many bytes as their type and vector say, aligned to that."""
    at, kind = _SIMPLE[instruction.opcode]
    scalar = next((TYPES[m] for m in instruction.modifiers if m in TYPES), None)
    operand = instruction.operands[at] if at < len(instruction.operands) else None
    if scalar is None or not isinstance(operand, ast.Address):
        return []
    size = scalar.bytes * next((_WIDTHS[m] for m in instruction.modifiers if m in _WIDTHS), 1)
    return [Access(operand, space, kind, size, size)]


def _copy(instruction: ast.Instruction, addresses: list[ast.Address]) -> list[Access]:
    """cp.async: from global to shared memory; the bytes read may be fewer than those written."""
    count, *given = (*instruction.operands[2:], None)
    if not isinstance(count, ast.Integer) or count.value not in (4, 8, 16):
        return []
    size = count.value
    source = Access(addresses[1], "global", _READ, size, size, counted=given[0] if given else None)
    return [Access(addresses[0], "shared", _WRITE, size, size), source]


class Checks:
    """Of one module: its sites. `lines` finds their places in the source."""

    def __init__(self, text: ModuleText, lines: SourceLines) -> None:
        self._text = text
        self._lines = lines
        self._strings: dict[str, str] = {}
        self._sites = 0

    def before(self, low: FunctionLowering, instruction: ast.Instruction) -> None:
        """Emits the checks of an instruction, under its guard."""
        if instruction.opcode == "call":
            self._announce(low)
            self._callee(low, instruction)
        for access in accesses(instruction) or ():
            if not self._needless(low, access):
                self._check(low, instruction, access)

    def after(self, instruction: ast.Instruction) -> None:
        """Once it is lowered, so isn't refused for what it is. CompileError: it touches memory unchecked."""
        if accesses(instruction) is None:
            raise CompileError(
                f"{instruction.text} isn't checked yet: connect without check=True", line=instruction.line
            )

    def touch(
        self, low: Lowering, instruction: ast.Instruction, pointer: Value, size: int, *, writes: bool
    ) -> None:
        """Emits the check of one element of a thread's, at a pointer that the lowering made."""
        space = space_of(instruction)
        operand = next(o for o in instruction.operands if isinstance(o, ast.Address))
        access = Access(operand, space, _WRITE if writes else _READ, size, size)
        address = low.em.cast("ptrtoint", pointer, "i64")
        self._ask(low, instruction, access, address, low.em.const("i64", size))

    def finish(self, low: FunctionLowering) -> None:
        """Once the function is written: the record of its .local variables, made when it is entered."""
        em = low.em
        ranges = [*low.local_ranges(), *low.argument_ranges()]
        em.entry.insert(0, f"  {_FRAME} = alloca [{3 + 2 * len(ranges)} x i64], align 8")
        frame = Value(_FRAME, "ptr")
        code, em.code = em.code, em.entry
        outer = em.const("i64", 0)
        if not low.kernel.entry:
            outer = em.load("i64", self._checked(low), 8)
        shared = low.layout.kernel_static.get(low.kernel.name, 0)
        words = [outer, em.const("i64", shared), em.const("i64", len(ranges))]
        for cell, size in ranges:
            words += [em.cast("ptrtoint", cell, "i64"), em.const("i64", size)]
        em.store_row(words, frame, 8)
        em.code = code

    def _checked(self, low: Lowering) -> Value:
        em = low.em
        return em.load("ptr", em.offset(Value("%ctx", "ptr"), _CHECKED), 8, metadata=INVARIANT)

    def _announce(self, low: Lowering) -> None:
        """Tells a function that is called what of .local its callers have."""
        low.em.store(Value(_FRAME, "ptr"), self._checked(low), 8)

    def _callee(self, low: FunctionLowering, instruction: ast.Instruction) -> None:
        """A call through a pointer: of one of the functions that it may mean."""
        counts = indirect_arguments(instruction)
        if counts is None:
            return
        em = low.em
        target = next(o for o in instruction.operands if isinstance(o, ast.Register))
        address = low.read(target, U64)
        good = em.new_label("callee")
        for function in low.candidates(*counts):
            name = Value(low.layout.function_address(function.name, instruction.line), "ptr", True)
            other = em.new_label("other")
            em.branch_if(em.icmp("eq", address, em.cast("ptrtoint", name, "i64")), good, other)
            em.place(other)
        access = Access(ast.Address(target, 0), "generic", _CALL, 1, 1)
        self._ask(low, instruction, access, address, em.const("i64", 1))
        em.branch(good)
        em.place(good)

    def _needless(self, low: FunctionLowering, access: Access) -> bool:
        """Parameters by name: their bounds are known, and the lowering sees to them."""
        base = access.operand.base
        return isinstance(base, ast.Symbol) and access.space == "param"

    def _check(self, low: FunctionLowering, instruction: ast.Instruction, access: Access) -> None:
        em = low.em
        done = None
        if access.lanes < 32:
            lane = em.binary("and", low.linear(), em.const("i32", 31))
            look, done = em.new_label("check"), em.new_label("checked")
            em.branch_if(em.icmp("ult", lane, em.const("i32", access.lanes)), look, done)
            em.place(look)
        address = em.cast("ptrtoint", low.address(access.operand, access.space), "i64")
        size = em.const("i64", access.size)
        if access.counted is not None:
            size = self._counted(low, access.counted, size)
        self._ask(low, instruction, access, address, size)
        if done is not None:
            em.branch(done)
            em.place(done)

    def _ask(
        self, low: Lowering, instruction: ast.Instruction, access: Access, address: Value, size: Value
    ) -> None:
        em = low.em
        check = em.load("ptr", em.offset(Value("%ctx", "ptr"), _CHECK), 8, metadata=INVARIANT)
        site = self._site(instruction, access)
        em.line(
            f"call void {check.text}(ptr %ctx, {address.typed}, {size.typed}, {low.linear().typed}, "
            f"ptr {site}, ptr {_FRAME})"
        )

    def _counted(self, low: FunctionLowering, operand: ast.Operand, most: Value) -> Value:
        """The bytes a copy reads of those it writes; none where a predicate says so."""
        em = low.em
        body = low.frame.function.body
        known = body.registers if body is not None else {}
        if isinstance(operand, ast.Register) and known.get(operand.name) is PRED:
            return em.select(low.read(operand, PRED), em.const("i64", 0), most)
        wide = em.resize(low.read(operand, U32), 64)
        return em.select(em.icmp("ult", wide, most), wide, most)

    def _site(self, instruction: ast.Instruction, access: Access) -> str:
        place = self._lines.at(instruction.line) or Place("", 0)
        self._sites += 1
        name = f"@gpud.site.{self._sites}"
        numbers = (_SPACES.index(access.space), access.kind, access.alignment, instruction.line, place.line)
        words = ", ".join(f"i32 {n}" for n in (*numbers, place.inlined))
        texts = (
            f"ptr {self._string(place.file) if place.file else 'null'}, ptr {self._string(instruction.text)}"
        )
        self._text.helpers[name] = (
            f"{name} = internal constant {{ i32, i32, i32, i32, i32, i32, ptr, ptr }} {{ {words}, {texts} }}"
        )
        return name

    def _string(self, text: str) -> str:
        name = self._strings.get(text)
        if name is None:
            name = self._strings[text] = f"@gpud.text.{len(self._strings)}"
            data = text.encode("ascii", "replace")[:200]
            escaped = "".join(f"\\{byte:02X}" for byte in data)
            self._text.helpers[name] = (
                f'{name} = internal constant [{len(data) + 1} x i8] c"{escaped}\\00", align 1'
            )
        return name
