"""Addresses that are a uniform base plus a 32-bit index times a constant, as `x[i]` is.

Whether such addresses lie side by side shows in the indices, which are half as wide; and the first of them is
a few scalar instructions. What is known holds within the straight-line code of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.pointers import defined_registers

_SCALES = range(1, 1 << 16)
_COPIES = (("mov", ("u64",)), ("mov", ("b64",)), ("mov", ("s64",)))


@dataclass(frozen=True)
class Affine:
    """`base + index * scale`; `base` is one value for all lanes (None: 0), `index` an i32 for each."""

    base: Value | None
    index: Value
    scale: int
    signed: bool

    def of_lane(self, em: Emitter, index: Value, offset: int) -> Value:
        """The address of a lane with that index, plus bytes, in its own state space."""
        wide = em.cast("sext" if self.signed else "zext", index, "i64")
        address = em.binary("mul", wide, em.const("i64", self.scale))
        if self.base is not None:
            address = em.binary("add", self.base, address)
        return em.binary("add", address, em.const("i64", offset)) if offset else address


class Affines:
    """`of(name)`: what is known of a register. `read` gives a register's value, as an integer."""

    def __init__(self, read: Callable[[ast.Operand, int], Value]) -> None:
        self._read = read
        self._known: dict[str, Affine] = {}

    def clear(self) -> None:
        """Another block begins."""
        self._known.clear()

    def of(self, name: str) -> Affine | None:
        """The register's form, if it has one."""
        return self._known.get(name)

    def before(self, em: Emitter, instruction: ast.Instruction) -> Affine | None:
        """What the instruction's result will be, from values that it may overwrite."""
        opcode, modifiers, sources = instruction.opcode, instruction.modifiers, instruction.operands[1:]
        if len(sources) == 2:
            return self._of_two(em, opcode, modifiers, sources[0], sources[1])
        if len(sources) != 1:
            return None
        if opcode == "cvt" and modifiers in (("s64", "s32"), ("u64", "u32")):
            return self._product(sources[0], ast.Integer(1), signed=modifiers[1] == "s32")
        if (opcode, modifiers) in _COPIES or (opcode == "cvta" and "shared" not in modifiers):
            return self._at(sources[0])
        return None

    def _of_two(
        self, em: Emitter, opcode: str, modifiers: tuple[str, ...], a: ast.Operand, b: ast.Operand
    ) -> Affine | None:
        if opcode == "mul" and modifiers in (("wide", "s32"), ("wide", "u32")):
            return self._product(a, b, signed=modifiers[1] == "s32")
        if opcode == "shl" and modifiers == ("b64",) and isinstance(b, ast.Integer):
            found = self._at(a)
            if found is not None and found.base is None and 0 <= b.value < 16:
                scale = found.scale << b.value
                return replace(found, scale=scale) if scale in _SCALES else None
        if opcode == "add" and modifiers in (("s64",), ("u64",)):
            return self._sum(em, a, b) or self._sum(em, b, a)
        return None

    def after(self, instruction: ast.Instruction, found: Affine | None) -> None:
        """The instruction has been performed."""
        written = defined_registers(instruction)
        for name in written:
            self._known.pop(name, None)
        if found is not None and len(written) == 1:
            self._known[written[0]] = found

    def _at(self, operand: ast.Operand) -> Affine | None:
        return self._known.get(operand.name) if isinstance(operand, ast.Register) else None

    def _product(self, index: ast.Operand, scale: ast.Operand, *, signed: bool) -> Affine | None:
        if not isinstance(index, ast.Register) or not isinstance(scale, ast.Integer):
            return None
        value = self._read(index, 32)
        if value.lanes == 1 or value.type != "i32" or scale.value not in _SCALES:
            return None
        return Affine(None, value, scale.value, signed)

    def _sum(self, em: Emitter, part: ast.Operand, other: ast.Operand) -> Affine | None:
        found = self._at(part)
        if found is None or not isinstance(other, ast.Register | ast.Integer):
            return None
        more = self._read(other, 64)
        if more.lanes != 1 or more.type != "i64":
            return None
        return replace(found, base=more if found.base is None else em.binary("add", found.base, more))
