"""Integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.types import TYPES, U32, ScalarType


def addsub(low: Lowering, ins: Instruction) -> None:
    """add and sub, with .sat (s32) and .cc (carry out)."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    sat, carry = options.flag("sat"), options.flag("cc")
    options.done()
    operands = low.operands(ins, 3)
    values = [low.read(operand, scalar) for operand in operands[1:]]
    if carry:
        result = with_carry(low, ins.opcode, values[0], values[1], None, kept=True)
    elif sat:
        result = em.intrinsic(f"s{ins.opcode}.sat", values[0].type, *values)
    else:
        result = numeric.elementwise(em, scalar, values, lambda v: em.binary(ins.opcode, v[0], v[1]))
    low.write(operands[0], result, scalar)


def with_carry(low: Lowering, opcode: str, a: Value, b: Value, carry: Value | None, *, kept: bool) -> Value:
    """a ± b ± carry; if `kept`, CC.CF gets the carry out.

    A difference is a + ~b + 1, as GPUs have it: what it carries out is that it did *not* borrow. Programs see
    that where they read the flag with addc (CUDA's division of 128 bits does).
    """
    em = low.em
    result = em.binary(opcode, a, b)
    out = em.icmp("ult", result, a) if opcode == "add" else em.icmp("ult", a, b)
    if carry is not None:
        extended = em.cast("zext", carry if opcode == "add" else em.invert(carry), a.type)
        second = em.binary(opcode, result, extended)
        more = em.icmp("ult", second, result) if opcode == "add" else em.icmp("ult", result, extended)
        out, result = em.binary("or", out, more), second
    if kept:
        low.write_carry(out if opcode == "add" else em.invert(out))
    return result


def addc(low: Lowering, ins: Instruction) -> None:
    """addc and subc: with carry in."""
    options = low.options(ins)
    scalar = options.type()
    kept = options.flag("cc")
    options.done()
    operands = low.operands(ins, 3)
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    carry = low.read_carry()
    low.write(operands[0], with_carry(low, ins.opcode[:3], a, b, carry, kept=kept), scalar)


def product(low: Lowering, a: Value, b: Value, scalar: ScalarType, part: str) -> Value:
    """mul.lo, .hi or .wide."""
    em = low.em
    if part == "lo":
        return em.binary("mul", a, b)
    wide = 2 * scalar.bits
    full = em.binary(
        "mul", em.resize(a, wide, signed=scalar.signed), em.resize(b, wide, signed=scalar.signed)
    )
    if part == "wide":
        return full
    return em.resize(em.binary("lshr", full, em.const(full.type, scalar.bits)), scalar.bits)


def multiply(low: Lowering, ins: Instruction) -> None:
    """mul, mad and madc in their lo, hi and wide forms."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    part = options.required("lo", "hi", "wide")
    sat, carry = options.flag("sat"), options.flag("cc")
    options.done()
    adds = ins.opcode != "mul"
    operands = low.operands(ins, 4 if adds else 3)
    result_type = scalar
    if part == "wide":
        if scalar.bits > 32:
            raise options.unsupported()
        result_type = TYPES[f"{scalar.name[0]}{scalar.bits * 2}"]
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    result = product(low, a, b, scalar, part)
    if adds:
        c = low.read(operands[3], result_type)
        if ins.opcode == "madc" or carry:
            flag = low.read_carry() if ins.opcode == "madc" else None
            result = with_carry(low, "add", result, c, flag, kept=carry)
        elif sat:
            result = em.intrinsic("sadd.sat", result.type, result, c)
        else:
            result = em.binary("add", result, c)
    low.write(operands[0], result, result_type)


def multiply24(low: Lowering, ins: Instruction) -> None:
    """mul24 and mad24: 24-bit factors, the low or high 32 of 48 bits."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    part = options.required("lo", "hi")
    sat = options.flag("sat")
    options.done()
    adds = ins.opcode == "mad24"
    operands = low.operands(ins, 4 if adds else 3)

    def factor(index: int) -> Value:
        shifted = em.binary("shl", low.read(operands[index], scalar), em.const("i32", 8))
        back = em.binary("ashr" if scalar.signed else "lshr", shifted, em.const("i32", 8))
        return em.resize(back, 64, signed=scalar.signed)

    full = em.binary("mul", factor(1), factor(2))
    result = em.resize(em.binary("lshr", full, em.const("i64", 16)) if part == "hi" else full, 32)
    if adds:
        c = low.read(operands[3], scalar)
        result = em.intrinsic("sadd.sat", "i32", result, c) if sat else em.binary("add", result, c)
    low.write(operands[0], result, scalar)


def divide(low: Lowering, ins: Instruction) -> None:
    """div and rem. CUDA leaves division by zero unspecified: it must not trap here.

    x / 0 is all ones and x % 0 is x, as NVIDIA's hardware has it.
    """
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 3)
    a, b = low.read(operands[1], scalar), low.read(operands[2], scalar)
    zero = em.icmp("eq", b, em.const(b.type, 0))
    unsafe = zero
    if scalar.signed:
        overflow = em.binary(
            "and",
            em.icmp("eq", b, em.const(b.type, -1)),
            em.icmp("eq", a, em.const(a.type, 1 << (scalar.bits - 1))),
        )
        unsafe = em.binary("or", zero, overflow)
    divisor = em.select(unsafe, em.const(b.type, 1), b)
    letter = "s" if scalar.signed else "u"
    result = em.binary(f"{letter}{ins.opcode}", a, divisor)
    result = em.select(zero, em.const(b.type, -1) if ins.opcode == "div" else a, result)
    low.write(operands[0], result, scalar)


def minmax(low: Lowering, ins: Instruction) -> None:
    """min and max."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    relu = options.flag("relu")
    options.done()
    operands = low.operands(ins, 3)
    name = ("s" if scalar.signed else "u") + ins.opcode

    def element(v: Sequence[Value]) -> Value:
        result = em.intrinsic(name, v[0].type, *v)
        return em.intrinsic("smax", result.type, result, em.const(result.type, 0)) if relu else result

    values = [low.read(operand, scalar) for operand in operands[1:]]
    low.write(operands[0], numeric.elementwise(em, scalar, values, element), scalar)


def sign(low: Lowering, ins: Instruction) -> None:
    """neg and abs."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 2)
    value = low.read(operands[1], scalar)
    negative = em.binary("sub", em.const(value.type, 0), value)
    if ins.opcode == "abs":
        negative = em.select(em.icmp("slt", value, em.const(value.type, 0)), negative, value)
    low.write(operands[0], negative, scalar)


def sad(low: Lowering, ins: Instruction) -> None:
    """c + |a - b|."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.done()
    operands = low.operands(ins, 4)
    a, b, c = (low.read(operand, scalar) for operand in operands[1:])
    less = em.icmp("slt" if scalar.signed else "ult", a, b)
    difference = em.select(less, em.binary("sub", b, a), em.binary("sub", a, b))
    low.write(operands[0], em.binary("add", c, difference), scalar)


def dot(low: Lowering, ins: Instruction) -> None:
    """dp4a and dp2a: byte dot products."""
    em = low.em
    options = low.options(ins)
    if len(options.types) != 2:
        raise options.unsupported("expected two types")
    first, second = options.types
    half = options.required("lo", "hi") if ins.opcode == "dp2a" else ""
    options.done()
    operands = low.operands(ins, 4)
    a, b, total = (low.read(operand, U32) for operand in operands[1:])

    def lane(value: Value, shift: int, bits: int, *, signed: bool) -> Value:
        piece = em.resize(em.binary("lshr", value, em.const("i32", shift)), bits)
        return em.resize(piece, 32, signed=signed)

    width, count = (8, 4) if ins.opcode == "dp4a" else (16, 2)
    base = 16 if half == "hi" else 0
    for index in range(count):
        x = lane(a, index * width, width, signed=first.signed)
        y = lane(b, base + index * 8, 8, signed=second.signed)
        total = em.binary("add", total, em.binary("mul", x, y))
    low.write(operands[0], total, U32)


INTEGER: dict[str, Handler] = {
    "add": addsub,
    "sub": addsub,
    "addc": addc,
    "subc": addc,
    "mul": multiply,
    "mad": multiply,
    "madc": multiply,
    "mul24": multiply24,
    "mad24": multiply24,
    "div": divide,
    "rem": divide,
    "min": minmax,
    "max": minmax,
    "neg": sign,
    "abs": sign,
    "sad": sad,
    "dp4a": dot,
    "dp2a": dot,
}
