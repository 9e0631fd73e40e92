"""Whether each thread of a kernel walks through memory of its own, as with a row of a matrix per thread.

In lockstep, such a loop gathers from as many places as there are lanes; a thread by itself reads line after
line.
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.pointers import defined_registers
from gpudisagg.device.cpu.strides import Strides
from gpudisagg.device.cpu.uniform import Uniformity

# Bytes from one iteration to the next up to which a thread stays in the lines that it has.
_NEAR = 64
# Instructions of a loop for each such load beyond which vectors of lanes are worth gathering for: where all
# lanes leave the loop together, and where they leave it one by one, so that some of a vector does nothing.
_FEW, _FEW_OR_ALONE = 10, 16
_CHAIN = 4


def walks(plan: Uniformity) -> bool:
    """Whether a loop of the kernel is mostly such loads."""
    strides = Strides(plan)
    return any(_mostly(plan, strides, members) for members in _innermost(plan))


def _innermost(plan: Uniformity) -> list[set[int]]:
    loops = plan.flow.loops
    return [m for head, m in loops.items() if not any(other in m for other in loops if other != head)]


def _mostly(plan: Uniformity, strides: Strides, members: set[int]) -> bool:
    instructions = [i for index in sorted(members) for i in plan.flow.blocks[index].instructions]
    steps = _Steps(instructions)
    found = 0
    for instruction in instructions:
        if instruction.opcode != "ld" or "param" in instruction.modifiers:
            continue
        base = next((o.base for o in instruction.operands if isinstance(o, ast.Address)), None)
        if not isinstance(base, ast.Register) or not plan.varies(base):
            continue
        step = steps.of(base.name)
        if strides.of(base.name) is None and step is not None and 0 < abs(step) <= _NEAR:
            found += 1
    blocks = plan.flow.blocks
    alone = any(not members.issuperset(blocks[index].targets) for index in plan.divergent() & members)
    return found * (_FEW_OR_ALONE if alone else _FEW) >= len(instructions)


class _Steps:
    """How far registers go from one iteration of a loop to the next, where that is a constant."""

    def __init__(self, instructions: list[ast.Instruction]) -> None:
        self._definitions: dict[str, list[ast.Instruction]] = {}
        for instruction in instructions:
            for name in defined_registers(instruction):
                self._definitions.setdefault(name, []).append(instruction)

    def of(self, name: str, depth: int = 0) -> int | None:
        """Of a register."""
        definitions = self._definitions.get(name)
        if definitions is None:
            return 0
        if len(definitions) != 1 or depth > 2 * _CHAIN:
            return None
        advance = self._advance(name)
        return self._linear(definitions[0], depth + 1) if advance is None else advance

    def _advance(self, name: str) -> int | None:
        """Of a register that comes from itself, by copies and constants that are added."""
        total, at = 0, name
        for _ in range(_CHAIN):
            definitions = self._definitions.get(at, [])
            if len(definitions) != 1:
                return None
            opcode, operands = definitions[0].opcode, definitions[0].operands
            if opcode in ("add", "sub") and isinstance(operands[2], ast.Integer):
                total += operands[2].value if opcode == "add" else -operands[2].value
            elif opcode != "mov":
                return None
            if not isinstance(operands[1], ast.Register):
                return None
            at = operands[1].name
            if at == name:
                return total
        return None

    def _linear(self, instruction: ast.Instruction, depth: int) -> int | None:
        opcode = instruction.opcode
        values = [self._operand(o, depth) for o in instruction.operands[1:]]
        numbers = [v for v in values if v is not None]
        if len(numbers) != len(values) or not values or opcode == "ld":
            return None
        if not any(numbers):
            return 0
        last = instruction.operands[-1]
        if opcode in ("mov", "cvt", "cvta"):
            return numbers[0]
        if opcode in ("add", "sub"):
            return numbers[0] + (numbers[1] if opcode == "add" else -numbers[1])
        if opcode in ("mul", "mad") and isinstance(instruction.operands[2], ast.Integer):
            return numbers[0] * instruction.operands[2].value + (numbers[2] if opcode == "mad" else 0)
        if opcode == "shl" and isinstance(last, ast.Integer) and 0 <= last.value < 32:
            return numbers[0] << last.value
        return None

    def _operand(self, operand: ast.Operand, depth: int) -> int | None:
        if isinstance(operand, ast.Register):
            return self.of(operand.name, depth)
        return 0 if isinstance(operand, ast.Integer | ast.Float | ast.Symbol) else None
