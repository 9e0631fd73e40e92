"""alloca, stacksave, stackrestore: memory of the current call, from a piece of its frame of fixed size."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction, Integer
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.host import trap_at
from gpudisagg.device.cpu.types import U64

# Of each call. CUDA's whole stack is 1 KiB by default.
STACK_BYTES = 8192


def allocate(low: Lowering, ins: Instruction) -> None:
    """alloca: traps where the piece is used up."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 2, 3)
    align = operands[2].value if len(operands) == 3 and isinstance(operands[2], Integer) else 8
    if align < 1 or align & (align - 1) or align > 128:
        raise options.unsupported("alignment is a power of two up to 128")
    memory, top = low.stack(STACK_BYTES)
    before = em.load("i64", top, 8)
    start = em.binary("and", em.binary("add", before, em.const("i64", align - 1)), em.const("i64", -align))
    size = em.resize(low.read(operands[1], scalar), 64)
    fits = em.binary("and", em.icmp("ule", size, em.const("i64", STACK_BYTES)), em.icmp(
        "ule", em.binary("add", start, size), em.const("i64", STACK_BYTES)))  # fmt: skip
    good, full = em.new_label("alloca"), em.new_label("alloca.full")
    em.branch_if(fits, good, full)
    em.place(full)
    trap_at(low, ins.line, "alloca")
    em.branch(good)
    em.place(good)
    em.store(em.binary("add", start, size), top, 8)
    low.write(operands[0], em.cast("ptrtoint", em.offset(memory, start), "i64"), U64)


def save(low: Lowering, ins: Instruction) -> None:
    """stacksave."""
    em = low.em
    memory, top = low.stack(STACK_BYTES)
    place = em.offset(memory, em.load("i64", top, 8))
    low.write(low.operands(ins, 1)[0], em.cast("ptrtoint", place, "i64"), U64)


def restore(low: Lowering, ins: Instruction) -> None:
    """stackrestore."""
    em = low.em
    memory, top = low.stack(STACK_BYTES)
    place = low.read(low.operands(ins, 1)[0], U64)
    offset = em.binary("sub", place, em.cast("ptrtoint", memory, "i64"))
    em.store(em.intrinsic("umin", "i64", offset, em.const("i64", STACK_BYTES)), top, 8)


STACK: dict[str, Handler] = {"alloca": allocate, "stacksave": save, "stackrestore": restore}
