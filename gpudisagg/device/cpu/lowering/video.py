"""Video instructions: arithmetic on parts of registers, with a second operation or a merge behind it; and
their forms for two halfwords or four bytes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gpudisagg.device.cpu.ast import Instruction, Operand, Register
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering.context import Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import U32, ScalarType

_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_WIDE = 64  # bits that hold every intermediate result but a product's
_PRODUCT = 128
_WIDTHS = {"b": 8, "h": 16}


def _types(options: Options, count: int) -> list[ScalarType]:
    if len(options.types) != count or any(t.name not in ("u32", "s32") for t in options.types):
        raise options.unsupported(f"expected {count} types, u32 or s32")
    return options.types


def _plain(operand: Operand) -> Operand:
    return replace(operand, part="", negated=False) if isinstance(operand, Register) else operand


def _digits(low: Lowering, operand: Operand, letter: str, most: int, limit: int) -> list[int]:
    """The selector behind a register, lowest element first; empty without one."""
    part = operand.part if isinstance(operand, Register) else ""
    if not part:
        return []
    digits = [int(d) for d in part[1:][::-1] if d.isdecimal()]
    if (
        part[0] != letter
        or len(digits) != len(part) - 1
        or not 0 < len(digits) <= most
        or max(digits) >= limit
    ):
        raise low.error(f"no such part of a register: .{part}")
    return digits


def _field(em: Emitter, word: Value, width: int, index: int, *, signed: bool, to: int = _WIDE) -> Value:
    """A byte, halfword or word of an i32, extended."""
    if width < 32:
        word = em.resize(em.binary("lshr", word, em.const("i32", width * index)), width)
    return em.resize(word, to, signed=signed)


def _source(low: Lowering, operand: Operand, scalar: ScalarType, to: int = _WIDE) -> Value:
    """An operand of a scalar form: the register, a halfword or a byte of it."""
    word = low.read(_plain(operand), U32)
    part = operand.part if isinstance(operand, Register) else ""
    width = _WIDTHS.get(part[:1], 32)
    (index,) = _digits(low, operand, part[0], 1, 32 // width) if part else (0,)
    return _field(low.em, word, width, index, signed=scalar.signed, to=to)


def _clamped(em: Emitter, value: Value, width: int, *, signed: bool) -> Value:
    least, most = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    above = em.intrinsic("smax", value.type, value, em.const(value.type, least))
    return em.intrinsic("smin", value.type, above, em.const(value.type, most))


def _compare(em: Emitter, comparison: str, a: Value, b: Value) -> Value:
    predicate = comparison if comparison in ("eq", "ne") else f"s{comparison}"
    return em.cast("zext", em.icmp(predicate, a, b), a.type)


def _distance(em: Emitter, a: Value, b: Value) -> Value:
    forth, back = em.binary("sub", a, b), em.binary("sub", b, a)
    return em.intrinsic("smax", a.type, forth, back)


def _average(em: Emitter, a: Value, b: Value) -> Value:
    """Rounded away from zero."""
    total = em.binary("add", a, b)
    up = em.cast("zext", em.icmp("sge", total, em.const(total.type, 0)), total.type)
    return em.binary("ashr", em.binary("add", total, up), em.const(total.type, 1))


_OPERATIONS: dict[str, Callable[[Emitter, Value, Value], Value]] = {
    "vadd": lambda em, a, b: em.binary("add", a, b),
    "vsub": lambda em, a, b: em.binary("sub", a, b),
    "vabsdiff": _distance,
    "vavrg": _average,
    "vmin": lambda em, a, b: em.intrinsic("smin", a.type, a, b),
    "vmax": lambda em, a, b: em.intrinsic("smax", a.type, a, b),
}


def _finish(
    low: Lowering, options: Options, operands: Sequence[Operand], value: Value, scalar: ScalarType
) -> None:
    """Saturates, then combines with c, or merges into it; `operands`: d and, if there is one, c."""
    em = low.em
    saturates = options.flag("sat")
    second = options.choice("add", "min", "max")
    options.done()
    target = operands[0]
    part = target.part if isinstance(target, Register) else ""
    if bool(second or part) != (len(operands) == 2) or (second and part):
        raise options.unsupported("a second operation or a part of the destination, and the operand for it")
    width = _WIDTHS.get(part[:1], 32)
    if saturates:
        value = _clamped(em, value, width, signed=scalar.signed)
    if part:
        (index,) = _digits(low, target, part[0], 1, 32 // width)
        value = _merged(em, low.read(_plain(operands[1]), U32), [(index, value)], width)
    elif second:
        c = em.resize(low.read(operands[1], U32), _WIDE, signed=scalar.signed)
        value = (
            em.binary("add", value, c)
            if second == "add"
            else em.intrinsic(f"s{second}", value.type, value, c)
        )
    low.write(_plain(target), em.resize(value, 32), U32)


def _merged(em: Emitter, into: Value, fields: Sequence[tuple[int, Value]], width: int) -> Value:
    """`into` (i32) with some of its fields replaced."""
    mask = (1 << width) - 1
    for index, value in fields:
        kept = em.binary("and", into, em.const("i32", ~(mask << (width * index)) & 0xFFFFFFFF))
        low_bits = em.binary("and", em.resize(value, 32), em.const("i32", mask))
        into = em.binary("or", kept, em.binary("shl", low_bits, em.const("i32", width * index)))
    return into


def arithmetic(low: Lowering, ins: Instruction) -> None:
    """vadd, vsub, vabsdiff, vmin, vmax."""
    options = low.options(ins)
    result, first, second = _types(options, 3)
    operands = low.operands(ins, 3, 4)
    a, b = _source(low, operands[1], first), _source(low, operands[2], second)
    value = _OPERATIONS[ins.opcode](low.em, a, b)
    _finish(low, options, (operands[0], *operands[3:]), value, result)


def shift(low: Lowering, ins: Instruction) -> None:
    """vshl and vshr, by no more than 32 (.clamp) or by the low five bits (.wrap)."""
    em = low.em
    options = low.options(ins)
    result, first, count = _types(options, 3)
    wraps = options.required("clamp", "wrap") == "wrap"
    if count.signed:
        raise options.unsupported("the count is a u32")
    operands = low.operands(ins, 3, 4)
    a, b = _source(low, operands[1], first), _source(low, operands[2], count)
    most = em.const(b.type, 31 if wraps else 32)
    by = em.binary("and", b, most) if wraps else em.intrinsic("umin", b.type, b, most)
    value = em.binary("shl" if ins.opcode == "vshl" else "ashr", a, by)
    _finish(low, options, (operands[0], *operands[3:]), value, result)


def multiply(low: Lowering, ins: Instruction) -> None:
    """vmad: ±a·b ± c, plus one with .po, scaled."""
    em = low.em
    options = low.options(ins)
    _, first, second = _types(options, 3)
    operands = low.operands(ins, 4)
    plus_one, saturates = options.flag("po"), options.flag("sat")
    scale = {"shr7": 7, "shr15": 15, None: 0}[options.choice("shr7", "shr15")]
    options.done()
    minus = [isinstance(o, Register) and o.negated for o in operands]
    if plus_one and any(minus):
        raise options.unsupported(".po takes no negated operand")
    signed = first.signed or second.signed or minus[1] != minus[2] or minus[3]
    a, b = (_source(low, o, t, _PRODUCT) for o, t in ((operands[1], first), (operands[2], second)))
    value = em.binary("mul", a, b)
    zero = em.const(value.type, 0)
    if minus[1] != minus[2]:
        value = em.binary("sub", zero, value)
    c = em.resize(low.read(_plain(operands[3]), U32), _PRODUCT, signed=signed)
    value = em.binary("sub" if minus[3] else "add", value, c)
    if plus_one:
        value = em.binary("add", value, em.const(value.type, 1))
    if scale:
        value = em.binary("ashr", value, em.const(value.type, scale))
    if saturates:
        value = _clamped(em, value, 32, signed=signed)
    low.write(operands[0], em.resize(value, 32), U32)


def compare(low: Lowering, ins: Instruction) -> None:
    """vset: 1 or 0."""
    options = low.options(ins)
    first, second = _types(options, 2)
    comparison = options.required(*_COMPARISONS)
    operands = low.operands(ins, 3, 4)
    a, b = _source(low, operands[1], first), _source(low, operands[2], second)
    value = _compare(low.em, comparison, a, b)
    _finish(low, options, (operands[0], *operands[3:]), value, U32)


def packed(low: Lowering, ins: Instruction) -> None:
    """The forms for two halfwords and four bytes: elements of a and b as one row, picked by selectors;
    results go into c's place by the destination's mask, or (.add) are summed onto c.
    """
    em = low.em
    options = low.options(ins)
    count = int(ins.opcode[-1])
    name, letter, width = ins.opcode[:-1], "h" if count == 2 else "b", 32 // count
    sets = name == "vset"
    result, first, second = (U32, *_types(options, 2)) if sets else _types(options, 3)
    comparison = options.required(*_COMPARISONS) if sets else ""
    saturates, sums = not sets and options.flag("sat"), options.flag("add")
    options.done()
    operands = low.operands(ins, 4)
    words = [low.read(_plain(o), U32) for o in operands[1:3]]

    def row(operand: Operand, scalar: ScalarType, default: int) -> list[Value]:
        picked = _digits(low, operand, letter, count, 2 * count) or list(range(default, default + count))
        if len(picked) != count:
            raise options.unsupported(f"a selector names {count} elements")
        return [_field(em, words[i // count], width, i % count, signed=scalar.signed, to=32) for i in picked]

    pairs = list(zip(row(operands[1], first, 0), row(operands[2], second, count), strict=True))
    written = _digits(low, operands[0], letter, count, count) or list(range(count))
    fields = []
    for index in sorted(set(written)):
        a, b = pairs[index]
        value = _compare(em, comparison, a, b) if sets else _OPERATIONS[name](em, a, b)
        fields.append((index, _clamped(em, value, width, signed=result.signed) if saturates else value))
    c = low.read(_plain(operands[3]), U32)
    if sums:
        for _, value in fields:
            c = em.binary("add", c, value)
    else:
        c = _merged(em, c, fields, width)
    low.write(_plain(operands[0]), c, U32)


_SCALAR: dict[str, Handler] = {
    **dict.fromkeys(("vadd", "vsub", "vabsdiff", "vmin", "vmax"), arithmetic),
    **dict.fromkeys(("vshl", "vshr"), shift),
    "vmad": multiply,
    "vset": compare,
}
_PACKED = ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset")
VIDEO: dict[str, Handler] = {**_SCALAR, **{f"{name}{n}": packed for name in _PACKED for n in (2, 4)}}
