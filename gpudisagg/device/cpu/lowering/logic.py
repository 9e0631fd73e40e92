"""Bits: logic, shifts, fields, counting, permutation."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction, Integer, Pair
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.types import PRED, U32, ScalarType


def _typed(low: Lowering, ins: Instruction, operands: int) -> ScalarType:
    options = low.options(ins)
    scalar = options.type()
    options.done()
    low.operands(ins, operands)
    return scalar


def logic(low: Lowering, ins: Instruction) -> None:
    """and, or, xor."""
    scalar = _typed(low, ins, 3)
    a, b = (low.read(operand, scalar) for operand in ins.operands[1:])
    low.write(ins.operands[0], low.em.binary(ins.opcode, a, b), scalar)


def negation(low: Lowering, ins: Instruction) -> None:
    """not and cnot."""
    em = low.em
    scalar = _typed(low, ins, 2)
    value = low.read(ins.operands[1], scalar)
    if ins.opcode == "cnot":
        zero = em.icmp("eq", value, em.const(value.type, 0))
        result = em.select(zero, em.const(value.type, 1), em.const(value.type, 0))
    else:
        result = em.invert(value)
    low.write(ins.operands[0], result, scalar)


def shift(low: Lowering, ins: Instruction) -> None:
    """shl and shr: amounts beyond the width give 0 or the sign, never anything else."""
    em = low.em
    scalar = _typed(low, ins, 3)
    value, amount = low.read(ins.operands[1], scalar), low.read(ins.operands[2], U32)
    limit = em.const("i32", scalar.bits - 1)
    over = em.icmp("ugt", amount, limit)
    bounded = em.resize(em.select(over, limit, amount), scalar.bits)
    if ins.opcode == "shr" and scalar.signed:
        result = em.binary("ashr", value, bounded)
    else:
        shifted = em.binary("shl" if ins.opcode == "shl" else "lshr", value, bounded)
        result = em.select(over, em.const(value.type, 0), shifted)
    low.write(ins.operands[0], result, scalar)


def funnel(low: Lowering, ins: Instruction) -> None:
    """shf: a 64-bit shift of two words, one word kept."""
    em = low.em
    options = low.options(ins)
    direction, mode = options.required("l", "r"), options.required("wrap", "clamp")
    options.done()
    operands = low.operands(ins, 4)
    lower, upper, amount = (low.read(operand, U32) for operand in operands[1:])
    if mode == "clamp":
        amount = em.intrinsic("umin", "i32", amount, em.const("i32", 32))
    else:
        amount = em.binary("and", amount, em.const("i32", 31))
    both = em.binary("or", em.binary("shl", em.resize(upper, 64), em.const("i64", 32)), em.resize(lower, 64))
    if direction == "l":
        moved = em.binary("lshr", em.binary("shl", both, em.resize(amount, 64)), em.const("i64", 32))
    else:
        moved = em.binary("lshr", both, em.resize(amount, 64))
    low.write(operands[0], em.resize(moved, 32), U32)


def count(low: Lowering, ins: Instruction) -> None:
    """popc, clz, brev; counts are 32-bit whatever the operand."""
    em = low.em
    scalar = _typed(low, ins, 2)
    value = low.read(ins.operands[1], scalar)
    if ins.opcode == "brev":
        low.write(ins.operands[0], em.intrinsic("bitreverse", value.type, value), scalar)
        return
    if ins.opcode == "popc":
        found = em.intrinsic("ctpop", value.type, value)
    else:
        found = em.intrinsic("ctlz", value.type, value, em.const("i1", 0))
    low.write(ins.operands[0], em.resize(found, 32), U32)


def find(low: Lowering, ins: Instruction) -> None:
    """bfind: position of the highest bit that isn't the sign; all ones where there is none."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    amount = options.flag("shiftamt")
    options.done()
    operands = low.operands(ins, 2)
    value = low.read(operands[1], scalar)
    if scalar.signed:
        negative = em.icmp("slt", value, em.const(value.type, 0))
        value = em.select(negative, em.invert(value), value)
    zeros = em.resize(em.intrinsic("ctlz", value.type, value, em.const("i1", 0)), 32)
    position = zeros if amount else em.binary("sub", em.const("i32", scalar.bits - 1), zeros)
    none = em.icmp("eq", value, em.const(value.type, 0))
    low.write(operands[0], em.select(none, em.const("i32", -1), position), U32)


def _field(low: Lowering, value: Value) -> Value:
    return low.em.binary("and", value, low.em.const("i32", 255))


def extract(low: Lowering, ins: Instruction) -> None:
    """bfe: a field; bits past the top are the sign bit (signed) or 0."""
    em = low.em
    scalar = _typed(low, ins, 4)
    value = low.read(ins.operands[1], scalar)
    position, length = (_field(low, low.read(operand, U32)) for operand in ins.operands[2:])
    bits = scalar.bits
    # In 128 (or 64) bits, sign- or zero-extended, no shift amount can go out of range after clamping.
    wide = 2 * bits
    extended = em.resize(value, wide, signed=scalar.signed)
    start = em.resize(em.intrinsic("umin", "i32", position, em.const("i32", bits)), wide)
    moved = em.binary("ashr" if scalar.signed else "lshr", extended, start)
    size = em.intrinsic("umin", "i32", length, em.const("i32", bits))
    rest = em.resize(em.binary("sub", em.const("i32", wide - 1), size), wide)
    rest = em.binary("add", rest, em.const(rest.type, 0))
    top = em.binary("shl", em.binary("shl", moved, rest), em.const(moved.type, 1))
    back = em.binary("ashr" if scalar.signed else "lshr", top, rest)
    result = em.resize(em.binary("ashr" if scalar.signed else "lshr", back, em.const(back.type, 1)), bits)
    low.write(ins.operands[0], result, scalar)


def insert(low: Lowering, ins: Instruction) -> None:
    """bfi: the low bits of a into b."""
    em = low.em
    scalar = _typed(low, ins, 5)
    a, b = low.read(ins.operands[1], scalar), low.read(ins.operands[2], scalar)
    position, length = (_field(low, low.read(operand, U32)) for operand in ins.operands[3:])
    wide = 2 * scalar.bits
    limit = em.const("i32", scalar.bits)
    start = em.resize(em.intrinsic("umin", "i32", position, limit), wide)
    size = em.resize(em.intrinsic("umin", "i32", length, limit), wide)
    one = em.const(f"i{wide}", 1)
    ones = em.binary("sub", em.binary("shl", one, size), one)
    mask = em.resize(em.binary("shl", ones, start), scalar.bits)
    moved = em.resize(em.binary("shl", em.resize(a, wide), start), scalar.bits)
    result = em.binary("or", em.binary("and", moved, mask), em.binary("and", b, em.invert(mask)))
    low.write(ins.operands[0], result, scalar)


def mask(low: Lowering, ins: Instruction) -> None:
    """bmsk: `b` ones from bit `a`."""
    em = low.em
    options = low.options(ins)
    wrap = options.required("clamp", "wrap") == "wrap"
    options.type()
    options.done()
    operands = low.operands(ins, 3)
    a, b = low.read(operands[1], U32), low.read(operands[2], U32)
    limit = em.const("i32", 31 if wrap else 32)

    def bound(value: Value) -> Value:
        return em.binary("and", value, limit) if wrap else em.intrinsic("umin", "i32", value, limit)

    start, size = em.resize(bound(a), 64), em.resize(bound(b), 64)
    one = em.const("i64", 1)
    ones = em.binary("sub", em.binary("shl", one, size), one)
    low.write(operands[0], em.resize(em.binary("shl", ones, start), 32), U32)


def lop3(low: Lowering, ins: Instruction) -> None:
    """Any function of three bits, by its truth table."""
    em = low.em
    options = low.options(ins)
    options.type()
    combine = options.choice("and", "or", "xor")
    options.done()
    operands = low.operands(ins, 5 if combine is None else 6)
    if not isinstance(operands[4], Integer):
        raise options.unsupported("the table must be a constant")
    table = operands[4].value & 0xFF
    a, b, c = (low.read(operand, U32) for operand in operands[1:4])
    result = em.const("i32", 0)
    for row in range(8):
        if table >> row & 1:
            terms = [v if row >> (2 - i) & 1 else em.invert(v) for i, v in enumerate((a, b, c))]
            term = em.binary("and", em.binary("and", terms[0], terms[1]), terms[2])
            result = em.binary("or", result, term)
    destination = operands[0]
    if combine is not None:
        if not isinstance(destination, Pair):
            raise options.unsupported("expected a register and a predicate")
        some = em.icmp("ne", result, em.const("i32", 0))
        predicate = em.binary(combine, some, low.read(operands[5], PRED))
        low.write(destination.second, predicate, PRED)
        destination = destination.first
    low.write(destination, result, U32)


def extend(low: Lowering, ins: Instruction) -> None:
    """szext: the low `b` bits, sign- or zero-extended."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    clamp = options.required("clamp", "wrap") == "clamp"
    options.done()
    operands = low.operands(ins, 3)
    a, b = low.read(operands[1], U32), low.read(operands[2], U32)
    width = em.binary("and", b, em.const("i32", 31))
    rest = em.binary("shl", em.const("i32", -1), width)
    if clamp:
        rest = em.select(em.icmp("ugt", b, em.const("i32", 31)), em.const("i32", 0), rest)
    result = em.binary("and", a, em.invert(rest))
    if scalar.signed:
        top = em.binary("and", em.binary("sub", width, em.const("i32", 1)), em.const("i32", 31))
        sign = em.binary("and", em.binary("lshr", a, top), em.const("i32", 1))
        negative = em.binary(
            "and", em.icmp("ne", sign, em.const("i32", 0)), em.icmp("ne", width, em.const("i32", 0))
        )
        result = em.binary("or", result, em.select(negative, rest, em.const("i32", 0)))
    low.write(operands[0], result, U32)


def nth(low: Lowering, ins: Instruction) -> None:
    """fns: the n-th bit that is set, from a base upward or (n < 0) downward."""
    em = low.em
    _typed(low, ins, 4)
    word, base, offset = (low.read(operand, U32) for operand in ins.operands[1:])
    zero, one = em.const("i32", 0), em.const("i32", 1)
    down = em.icmp("slt", offset, zero)
    # Downward is upward in the reversed word. n = 0 asks for the base itself: the first, if it is there.
    word = em.select(down, em.intrinsic("bitreverse", "i32", word), word)
    base = em.select(down, em.binary("sub", em.const("i32", 31), base), base)
    number = em.intrinsic("abs", "i32", offset, em.const("i1", 0))
    wanted = em.intrinsic("umax", "i32", number, one)
    found, count = em.const("i32", -1), zero
    for position in range(32):
        at = em.const("i32", position)
        bit = em.binary("and", em.binary("lshr", word, at), one)
        bit = em.select(em.icmp("ule", base, at), bit, zero)
        count = em.binary("add", count, bit)
        hit = em.binary("and", em.icmp("ne", bit, zero), em.icmp("eq", count, wanted))
        found = em.select(hit, at, found)
    missing = em.binary("and", em.icmp("eq", offset, zero), em.icmp("ne", found, base))
    missing = em.binary("or", missing, em.icmp("eq", found, em.const("i32", -1)))
    result = em.select(down, em.binary("sub", em.const("i32", 31), found), found)
    low.write(ins.operands[0], em.select(missing, em.const("i32", -1), result), U32)


def permute(low: Lowering, ins: Instruction) -> None:
    """prmt: pick four of eight bytes."""
    em = low.em
    options = low.options(ins)
    mode = options.choice("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    options.type()
    options.done()
    operands = low.operands(ins, 4)
    a, b, selector = (low.read(operand, U32) for operand in operands[1:])
    both = em.binary("or", em.binary("shl", em.resize(b, 64), em.const("i64", 32)), em.resize(a, 64))
    result = em.const("i32", 0)
    picked = em.binary("and", selector, em.const("i32", 3))
    for index in range(4):
        if mode is None:
            nibble = em.binary("lshr", selector, em.const("i32", 4 * index))
            source = em.binary("and", nibble, em.const("i32", 7))
        else:
            source = _permute_mode(low, mode, picked, index)
        distance = em.resize(em.binary("shl", source, em.const("i32", 3)), 64)
        byte = em.binary("and", em.resize(em.binary("lshr", both, distance), 32), em.const("i32", 255))
        if mode is None:
            sign = em.binary("ashr", em.resize(em.resize(byte, 8), 32, signed=True), em.const("i32", 7))
            replicate = em.icmp("ne", em.binary("and", nibble, em.const("i32", 8)), em.const("i32", 0))
            byte = em.select(replicate, em.binary("and", sign, em.const("i32", 255)), byte)
        result = em.binary("or", result, em.binary("shl", byte, em.const("i32", 8 * index)))
    low.write(operands[0], result, U32)


def _permute_mode(low: Lowering, mode: str, picked: Value, index: int) -> Value:
    em = low.em
    position = em.const("i32", index)
    if mode == "f4e":
        return em.binary("add", picked, position)
    if mode == "b4e":
        return em.binary("and", em.binary("sub", picked, position), em.const("i32", 7))
    if mode == "rc8":
        return picked
    if mode == "ecl":
        return em.intrinsic("umax", "i32", picked, position)
    if mode == "ecr":
        return em.intrinsic("umin", "i32", picked, position)
    half = em.binary("shl", em.binary("and", picked, em.const("i32", 1)), em.const("i32", 1))
    return em.binary("add", half, em.const("i32", index & 1))


LOGIC: dict[str, Handler] = {
    "and": logic,
    "or": logic,
    "xor": logic,
    "not": negation,
    "cnot": negation,
    "shl": shift,
    "shr": shift,
    "shf": funnel,
    "popc": count,
    "clz": count,
    "brev": count,
    "bfind": find,
    "bfe": extract,
    "bfi": insert,
    "bmsk": mask,
    "lop3": lop3,
    "prmt": permute,
    "szext": extend,
    "fns": nth,
}
