"""Lowering tables, one per instruction family, and the dispatch over them."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.lowering.approximate import APPROXIMATE
from gpudisagg.device.cpu.lowering.asynchronous import ASYNCHRONOUS
from gpudisagg.device.cpu.lowering.atomic import ATOMIC
from gpudisagg.device.cpu.lowering.compare import COMPARE
from gpudisagg.device.cpu.lowering.context import Handler
from gpudisagg.device.cpu.lowering.control import CONTROL
from gpudisagg.device.cpu.lowering.convert import CONVERT
from gpudisagg.device.cpu.lowering.floating import FLOATING
from gpudisagg.device.cpu.lowering.integer import INTEGER
from gpudisagg.device.cpu.lowering.logic import LOGIC
from gpudisagg.device.cpu.lowering.matrix import MATRIX
from gpudisagg.device.cpu.lowering.memory import MEMORY
from gpudisagg.device.cpu.lowering.refused import reason
from gpudisagg.device.cpu.lowering.stack import STACK
from gpudisagg.device.cpu.lowering.video import VIDEO
from gpudisagg.device.cpu.lowering.warp import WARP
from gpudisagg.device.cpu.lowering.wmma import WMMA
from gpudisagg.device.cpu.types import TYPES
from gpudisagg.device.errors import CompileError

# Opcodes that both number tables have are told apart by their type, in `handler_of`.
_GENERAL: dict[str, Handler] = {
    **LOGIC,
    **COMPARE,
    **CONVERT,
    **MEMORY,
    **ATOMIC,
    **MATRIX,
    **ASYNCHRONOUS,
    **CONTROL,
    **STACK,
    **WARP,
    **WMMA,
    **APPROXIMATE,
    **VIDEO,
}


def unsupported(instruction: Instruction) -> CompileError:
    """The error for an instruction without a lowering."""
    text = f"unsupported instruction {instruction.text}{reason(instruction)}"
    return CompileError(text, line=instruction.line)


def handler_of(instruction: Instruction) -> Handler | None:
    """The lowering of an instruction, or None."""
    opcode = instruction.opcode
    general = _GENERAL.get(opcode)
    if general is not None:
        return general
    floating = any(TYPES[m].floating for m in instruction.modifiers if m in TYPES)
    return (FLOATING if floating else INTEGER).get(opcode)
