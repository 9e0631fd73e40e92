"""Which registers hold one value for a whole warp, and what the others probably look like across lanes.

The first is proved and decides how registers are kept: one cell, or one per lane. The second is a guess
(`strides`) which only picks the memory accesses that are worth a check when the kernel runs.
"""

from __future__ import annotations

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.flow import Block, Flow
from gpudisagg.device.cpu.pointers import defined_registers
from gpudisagg.device.cpu.spinning import (
    on_workspace,
    ordered,
    read_registers,
    registers_in,
    workspace_registers,
)

_LANE_REGISTERS = ("%tid.x", "%tid.y", "%tid.z", "%laneid", "%lanemask_")
# Their result is the same in all lanes if their operands are, whoever takes part.
_SAME = frozenset({"vote", "redux", "activemask", "bar", "barrier"})
_VARYING = frozenset({"match", "atom", "elect", "shfl", "call", "ldmatrix", "mma", "wmma", "movmatrix"})


class Uniformity:
    """`varying`: registers with a value per lane. `waiting[b]`: where lanes may wait while block b runs;
    where there are none, all lanes that haven't exited run it together.
    """

    def __init__(self, function: ast.Function, flow: Flow) -> None:
        assert function.body is not None
        self.flow = flow
        self.body = function.body
        self.locals = {v.name for v in function.body.variables if v.space in ("local", "param")}
        self.definitions: dict[str, list[tuple[int, ast.Instruction]]] = {}
        self.used_in: dict[str, set[int]] = {}
        for index, block in enumerate(flow.blocks):
            for instruction in block.instructions:
                for name in defined_registers(instruction):
                    self.definitions.setdefault(name, []).append((index, instruction))
                for name in read_registers(instruction):
                    self.used_in.setdefault(name, set()).add(index)
            if block.condition is not None:
                self.used_in.setdefault(block.condition.name, set()).add(index)
        self.upward = {index: _read_first(block) for index, block in enumerate(flow.blocks)}
        self._fixed = self._constants()
        self.varying: set[str] = set()
        self.waiting: list[set[int]] = flow.waiting(set())
        self._solve()

    def varies(self, operand: ast.Operand) -> bool:
        """Whether the operand may differ between lanes."""
        if isinstance(operand, ast.Symbol) and operand.name in self.locals:
            return True
        if isinstance(operand, ast.Address) and self.varies(operand.base):
            return True
        return any(n in self.varying or n.startswith(_LANE_REGISTERS) for n in registers_in(operand))

    def stays(self, name: str, block: int) -> bool:
        """Whether what the block assigns to the register is looked at nowhere else."""
        return self.used_in.get(name, set()) <= {block} and name not in self.upward[block]

    def divergent(self) -> set[int]:
        """Blocks whose branch may part lanes."""
        return {
            index
            for index, block in enumerate(self.flow.blocks)
            if block.condition is not None and self.varies(block.condition) and len(set(block.targets)) > 1
        }

    def _solve(self) -> None:
        while True:
            before = (len(self.varying), self.waiting)
            self.waiting = self.flow.waiting(self.divergent())
            for name, definitions in self.definitions.items():
                if name not in self.varying and any(self._gives(name, i, b) for b, i in definitions):
                    self.varying.add(name)
            if self._carries_vary():
                self.varying.add("%carry")
            if before == (len(self.varying), self.waiting):
                return

    def _carries_vary(self) -> bool:
        """CC.CF is one cell or one per lane for the whole kernel."""
        return any(
            "cc" in i.modifiers or i.opcode in ("addc", "subc", "madc")
            for block in self.flow.blocks
            for i in block.instructions
        )

    def _gives(self, name: str, instruction: ast.Instruction, block: int) -> bool:
        opcode = instruction.opcode
        if opcode in _VARYING or opcode in ("addc", "subc", "madc"):
            return True
        if opcode in ("vote", "redux"):
            if any(self.varies(o) for o in instruction.operands[2:]):
                return True
        elif opcode not in _SAME and any(self.varies(o) for o in instruction.operands[1:]):
            return True
        if not self.waiting[block] or name in self._fixed:
            return False
        # Lanes that don't run this block keep what they have, unless nobody looks outside the block.
        return not self.stays(name, block)

    def _constants(self) -> set[str]:
        """Registers that are the same whenever they are looked at: one definition, before every use, of
        constants, parameters and such registers.
        """
        found: set[str] = set()
        grown = True
        while grown:
            grown = False
            for name, definitions in self.definitions.items():
                if name in found or len(definitions) != 1:
                    continue
                block, instruction = definitions[0]
                if self._constant(instruction, found) and self._before_uses(name, block):
                    found.add(name)
                    grown = True
        return found

    def _constant(self, instruction: ast.Instruction, found: set[str]) -> bool:
        opcode, modifiers = instruction.opcode, instruction.modifiers
        if opcode == "ld" and (not modifiers or modifiers[0] != "param"):
            return False
        if opcode in _SAME | _VARYING or "cc" in modifiers or opcode.endswith("c"):
            return False
        names = [n for o in instruction.operands[1:] for n in registers_in(o)]
        return all(n in found or n.startswith(("%ctaid", "%ntid", "%nctaid")) for n in names)

    def _before_uses(self, name: str, block: int) -> bool:
        if name in self.upward[block]:
            return False
        return all(block in self.flow.dominators[user] for user in self.used_in.get(name, ()))

    # what may stop a kernel from running in lockstep

    def spins(self) -> bool:
        """Whether lanes may wait in a loop for what another lane of their warp writes: a loop that lanes
        leave one by one, on a value read while others may change it. What blocks of a grid meet at
        (`spinning.py`) is for other blocks to change.
        """
        workspace = workspace_registers(self.body)
        tainted: set[str] = set()
        grown = True
        while grown:
            grown = False
            for name, definitions in self.definitions.items():
                if name not in tainted and any(
                    (ordered(i) and not on_workspace(i, workspace))
                    or not tainted.isdisjoint(read_registers(i))
                    for _, i in definitions
                ):
                    tainted.add(name)
                    grown = True
        looping = set().union(*self.flow.loops.values()) if self.flow.loops else set()
        return any(
            condition is not None and condition.name in tainted
            for index in self.divergent() & looping
            for condition in [self.flow.blocks[index].condition]
        )


def _read_first(block: Block) -> set[str]:
    """Registers the block reads before it writes them."""
    written: set[str] = set()
    found: set[str] = set()
    for instruction in block.instructions:
        found |= read_registers(instruction) - written
        written |= set(defined_registers(instruction))
    if block.condition is not None:
        found |= {block.condition.name} - written
    return found
