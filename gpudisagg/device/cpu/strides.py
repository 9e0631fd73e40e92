"""Guesses at how far a register's values are apart from lane to lane.

Nothing depends on them being right: an access whose address seems to advance by its own size, or not at
all, is checked when it runs (`lanes.py`), and taken lane by lane where the guess was wrong.
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.lanes import WIDTH
from gpudisagg.device.cpu.uniform import Uniformity

_SPECIAL = {"%tid.x": 1, "%laneid": 1, "%tid.y": 0, "%tid.z": 0}
_COPIES = frozenset({"mov", "cvt", "cvta", "or", "and"})


class Strides:
    """`of(name)`: the guess for a register, or None."""

    def __init__(self, uniformity: Uniformity) -> None:
        self._uniformity = uniformity
        self._known: dict[str, int | None] = {}
        for _ in range(8):
            if not self._round():
                break

    def of(self, name: str) -> int | None:
        """The guess for a register."""
        return self._known.get(name)

    def _round(self) -> bool:
        changed = False
        for name, definitions in self._uniformity.definitions.items():
            if name in self._known and self._known[name] is None:
                continue
            found = [self._result(i) for _, i in definitions]
            known = [f for f in found if f != "unknown"]
            if not known:
                continue
            guess = known[0] if all(k == known[0] for k in known) else None
            assert not isinstance(guess, str)
            if name not in self._known or self._known[name] != guess:
                self._known[name] = guess
                changed = True
        return changed

    def _operand(self, operand: ast.Operand) -> int | str | None:
        if isinstance(operand, ast.Integer | ast.Float):
            return 0
        if isinstance(operand, ast.Address):
            return self._operand(operand.base)
        if isinstance(operand, ast.Register):
            if operand.name in _SPECIAL:
                return _SPECIAL[operand.name]
            if not self._uniformity.varies(operand):
                return 0
            if operand.name in self._uniformity.definitions:
                return self._known.get(operand.name, "unknown")
            return None
        return 0 if isinstance(operand, ast.Symbol) and not self._uniformity.varies(operand) else None

    def _result(self, instruction: ast.Instruction) -> int | str | None:
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in ("atom", "match", "elect", "shfl"):
            return None
        values = [self._operand(o) for o in operands[1:]]
        if any(v == "unknown" for v in values):
            return "unknown"
        numbers = [v for v in values if isinstance(v, int)]
        if len(numbers) != len(values) or not values:
            return None
        if all(n == 0 for n in numbers):
            return 0
        if opcode in ("add", "sub") and len(numbers) == 2:
            return numbers[0] + numbers[1] if opcode == "add" else numbers[0] - numbers[1]
        if opcode in ("mul", "mad") and len(numbers) >= 2:
            product = self._product(operands[1], operands[2], numbers)
            return None if product is None else product + (numbers[2] if opcode == "mad" else 0)
        if opcode == "shl" and isinstance(operands[2], ast.Integer) and 0 <= operands[2].value < 32:
            return numbers[0] << operands[2].value
        if opcode in ("shr", "and") and isinstance(operands[2], ast.Integer):
            return _of_bits(opcode, numbers[0], operands[2].value)
        if opcode in _COPIES:
            return numbers[0] if len(numbers) == 1 or numbers[1] == 0 else None
        return None

    def _product(self, a: ast.Operand, b: ast.Operand, numbers: list[int]) -> int | None:
        if numbers[0] == 0 and numbers[1] == 0:
            return 0
        if isinstance(b, ast.Integer):
            return numbers[0] * b.value
        if isinstance(a, ast.Integer):
            return numbers[1] * a.value
        return None


def _of_bits(opcode: str, stride: int, operand: int) -> int | None:
    """What is left of a stride by a shift to the right, or by a mask: warps begin at multiples of WIDTH."""
    unit = 1 << min(operand, 63) if opcode == "shr" else operand & -operand
    if unit >= WIDTH * abs(stride) or unit == 0:
        return 0
    if stride % unit:
        return None
    return stride // unit if opcode == "shr" else stride
