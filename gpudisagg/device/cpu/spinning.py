"""Loops in which threads wait for what others write, and who those others are.

Such a loop goes on, or is left, by a value that was read in it while others may change it: a spin lock, a
flag, the barrier of a grid. Where it goes back, the thread lets others run (`Lowering.pause`). Found by the
text: the statements between a label and a branch back to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.pointers import defined_registers

_ORDERED = frozenset({"volatile", "relaxed", "acquire", "mmio"})
_WORKSPACE = ("%envreg1", "%envreg2")


def registers_in(operand: ast.Operand) -> Iterator[str]:
    """Names of the registers an operand mentions."""
    if isinstance(operand, ast.Register):
        yield operand.name
    elif isinstance(operand, ast.Address):
        yield from registers_in(operand.base)
    elif isinstance(operand, ast.Vector | ast.Arguments):
        for element in operand.elements:
            yield from registers_in(element)
    elif isinstance(operand, ast.Pair):
        yield from registers_in(operand.first)
        yield from registers_in(operand.second)


def read_registers(instruction: ast.Instruction) -> set[str]:
    """Registers the instruction reads. A destination that is only written isn't among them."""
    writes = bool(defined_registers(instruction))
    sources = instruction.operands[1:] if writes else instruction.operands
    return {name for operand in sources for name in registers_in(operand)}


@dataclass(frozen=True)
class Spins:
    """`branches`: lines of the branches back. `others`: a loop waits for what any other thread may write, not
    only other blocks at the grid's barrier.
    """

    branches: frozenset[int]
    others: bool


def ordered(instruction: ast.Instruction) -> bool:
    """Whether the instruction reads what others may be writing."""
    return instruction.opcode == "atom" or _watches(instruction)


def _watches(instruction: ast.Instruction) -> bool:
    return instruction.opcode == "ld" and not _ORDERED.isdisjoint(instruction.modifiers)


def workspace_registers(body: ast.Body) -> set[str]:
    """Registers with nothing in them but the address of what the blocks of a grid meet at."""
    instructions = [s for s in body.statements if isinstance(s, ast.Instruction)]
    if not any(n in _WORKSPACE for i in instructions for n in read_registers(i)):
        return set()
    definitions: dict[str, list[ast.Instruction]] = {}
    for instruction in instructions:
        for name in defined_registers(instruction):
            definitions.setdefault(name, []).append(instruction)
    found: set[str] = set()
    grown = True
    while grown:
        grown = False
        for name, places in definitions.items():
            if name not in found and all(_passes(i, found) for i in places):
                found.add(name)
                grown = True
    return found


def _passes(instruction: ast.Instruction, found: set[str]) -> bool:
    names = read_registers(instruction)
    arithmetic = instruction.opcode in ("mov", "cvt", "bfi", "add", "or", "shl", "cvta")
    return arithmetic and bool(names) and all(n in found or n in _WORKSPACE for n in names)


def on_workspace(instruction: ast.Instruction, workspace: set[str]) -> bool:
    """Whether it reads what the blocks of a grid meet at."""
    bases = [o.base for o in instruction.operands if isinstance(o, ast.Address)]
    return bool(bases) and all(isinstance(b, ast.Register) and b.name in workspace for b in bases)


def spins_of(function: ast.Function) -> Spins:
    """The loops of a function that wait."""
    body = function.body
    statements = body.statements if body is not None else ()
    places = {s.name: at for at, s in enumerate(statements) if isinstance(s, ast.Label)}
    workspace = workspace_registers(body) if body is not None else set()
    branches: set[int] = set()
    others = False
    for at, statement in enumerate(statements):
        begin = _target(statement, places)
        if begin is None or begin > at:
            continue
        loop = [s for s in statements[begin : at + 1] if isinstance(s, ast.Instruction)]
        leaving = [i for i in loop if _leaves(i, places, begin, at)]
        if _decides(leaving, loop, {n for i in loop if ordered(i) for n in defined_registers(i)}):
            branches.add(statement.line)
        watched = [i for i in loop if _watches(i) and not on_workspace(i, workspace)]
        # Where all meet at a barrier each time round, it isn't the loop in which they wait.
        if not any(_meets(i) for i in loop):
            others = others or _decides(leaving, loop, {n for i in watched for n in defined_registers(i)})
    return Spins(frozenset(branches), others)


def _meets(instruction: ast.Instruction) -> bool:
    return instruction.opcode in ("bar", "barrier") and "warp" not in instruction.modifiers


def _target(statement: ast.Label | ast.Instruction, places: dict[str, int]) -> int | None:
    if not isinstance(statement, ast.Instruction) or statement.opcode != "bra" or not statement.operands:
        return None
    label = statement.operands[0]
    return places.get(label.name) if isinstance(label, ast.Symbol) else None


def _leaves(instruction: ast.Instruction, places: dict[str, int], begin: int, end: int) -> bool:
    """Whether it may leave the loop, or go round again."""
    if instruction.guard is None:
        return False
    target = _target(instruction, places)
    if target is None:
        return instruction.opcode in ("ret", "exit")
    return target <= begin or target > end


def _decides(leaving: list[ast.Instruction], loop: list[ast.Instruction], read: set[str]) -> bool:
    """Whether what was read into these registers says if the loop goes on."""
    if not leaving or not read:
        return False
    wanted = {i.guard.register.name for i in leaving if i.guard is not None}
    grown = True
    while grown and wanted.isdisjoint(read):
        grown = False
        for instruction in loop:
            names = set(defined_registers(instruction)) - read
            if names and not read.isdisjoint(read_registers(instruction)):
                read |= names
                grown = True
    return not wanted.isdisjoint(read)
