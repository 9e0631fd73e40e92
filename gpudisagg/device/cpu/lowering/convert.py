"""mov, cvt, cvta: moving values between types and address spaces."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction, Sink, Vector
from gpudisagg.device.cpu.emitter import Value
from gpudisagg.device.cpu.lowering import narrow, numeric
from gpudisagg.device.cpu.lowering.context import DYNAMIC_SHARED, Handler, Lowering
from gpudisagg.device.cpu.lowering.options import Options
from gpudisagg.device.cpu.types import F32, PRED, TYPES, U64, Kind, ScalarType, llvm_bits

# A cluster is one block here.
_WINDOWS = ("global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry")
_TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


def mov(low: Lowering, ins: Instruction) -> None:
    """mov, packing and unpacking included."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.done()
    destination, source = low.operands(ins, 2)
    if isinstance(source, Vector):
        width = _element_bits(low, scalar, source)
        value = em.const(f"i{scalar.bits}", 0)
        for index, element in enumerate(source.elements):
            piece = em.resize(low.read(element, TYPES[f"b{width}"]), scalar.bits)
            value = em.binary("or", value, em.binary("shl", piece, em.const(value.type, index * width)))
    else:
        value = low.read(source, scalar)
    if not isinstance(destination, Vector):
        low.write(destination, low.convert_bits(value, scalar.storage), scalar)
        return
    width = _element_bits(low, scalar, destination)
    whole = low.convert_bits(value, f"i{scalar.bits}")
    for index, element in enumerate(destination.elements):
        if not isinstance(element, Sink):
            shifted = em.binary("lshr", whole, em.const(whole.type, index * width))
            low.write(element, em.resize(shifted, width), TYPES[f"b{width}"])


def _element_bits(low: Lowering, scalar: ScalarType, vector: Vector) -> int:
    count = len(vector.elements)
    if count not in (2, 4) or f"b{scalar.bits // count}" not in TYPES:
        raise low.error("a vector that doesn't fit the type")
    return scalar.bits // count


def cvt(low: Lowering, ins: Instruction) -> None:
    """cvt: every pair of integer, float and half types."""
    em = low.em
    options = low.options(ins)
    if ins.modifiers[:1] == ("pack",):
        narrow.pack(low, ins)
        return
    if len(options.types) != 2:
        raise options.unsupported("expected two types")
    target, source = options.types
    if target.name in narrow.MINIFLOATS or source.name in narrow.MINIFLOATS:
        narrow.minifloat(low, ins, options)
        return
    integral = options.choice(*_TO_INTEGER)
    rounding = options.choice(*numeric.ROUNDINGS, "rna") or "rn"
    ftz, sat, relu = options.flag("ftz"), options.flag("sat"), options.flag("relu")
    satfinite = options.flag("satfinite")
    options.done()
    if satfinite and not ((target.half or target.name == "tf32") and source == F32):
        raise options.unsupported(".satfinite isn't supported here")
    if target.packed == 2:
        if source != F32 or not target.half:
            raise options.unsupported()
        operands = low.operands(ins, 3)
        high, lower = (low.read(operand, source) for operand in operands[1:])
        pieces = [_relu(low, v) if relu else v for v in (lower, high)]
        halves = [numeric.half_directed(em, v, target.element, rounding) for v in pieces]
        if satfinite:
            halves = [narrow.finite_half(em, h, v, target) for h, v in zip(halves, pieces, strict=True)]
        low.write(operands[0], numeric.join(em, halves[0], halves[1]), target)
        return
    operands = low.operands(ins, 2)
    value = low.read(operands[1], source)
    if target.name == "tf32":
        if source != F32 or rounding in ("rm", "rp"):
            raise options.unsupported()
        value = _relu(low, value) if relu else value
        low.write(operands[0], narrow.tf32(em, value, rounding, satfinite=satfinite), target)
        return
    if rounding == "rna":
        raise options.unsupported(".rna rounds to tf32 only")
    if source.floating:
        value = numeric.widen(em, value, source)
        if ftz and value.type == "float" and not source.half:
            value = numeric.flush(em, value)
        if integral is not None:
            value = em.intrinsic(_TO_INTEGER[integral], value.type, value)
        result = (
            _float_to_float(low, value, target, rounding, sat=sat, relu=relu, ftz=ftz)
            if target.floating
            else _float_to_integer(low, value, source, target)
        )
    elif target.floating:
        result = _integer_to_float(low, value, source, target, rounding)
        if sat:
            result = numeric.narrow(em, numeric.saturate(em, numeric.widen(em, result, target)), target)
    else:
        result = _integer_to_integer(low, value, source, target, sat=sat)
    if satfinite:
        result = narrow.finite_half(em, result, value, target)
    low.write(operands[0], result, target)


def _relu(low: Lowering, value: Value) -> Value:
    em = low.em
    zero = em.real(value.type, 0.0)
    return em.select(em.fcmp("olt", value, zero), zero, value)


def _float_to_float(
    low: Lowering, value: Value, target: ScalarType, rounding: str, *, sat: bool, relu: bool, ftz: bool
) -> Value:
    em = low.em
    if sat:
        value = numeric.saturate(em, value)
    if relu:
        value = _relu(low, value)
    if target.half:
        if value.type == "double":
            value = numeric.odd_to_single(em, value)
        return numeric.half_directed(em, value, target, rounding)
    if target.bits == 32 and value.type == "double":
        value = numeric.single_directed(em, value, rounding)
        return numeric.flush(em, value) if ftz else value
    if target.bits == 64 and value.type == "float":
        return em.cast("fpext", value, "double")
    return value


def _float_to_integer(low: Lowering, value: Value, source: ScalarType, target: ScalarType) -> Value:
    em = low.em
    name = "fptosi" if target.signed else "fptoui"
    width, suffix = f"i{target.bits}", "f64" if value.type == "double" else "f32"
    result = em.call(f"llvm.{name}.sat.{width}.{suffix}", width, [value])
    if source.bits == 64 or target.bits == 64:
        # PTX: NaN gives 0, except with 64-bit types, where it gives the top bit.
        top = em.const(width, 1 << (target.bits - 1))
        result = em.select(em.fcmp("uno", value, value), top, result)
    return result


def _integer_to_float(
    low: Lowering, value: Value, source: ScalarType, target: ScalarType, rounding: str
) -> Value:
    em = low.em
    op = "sitofp" if source.signed else "uitofp"
    if target.bits == 64 and source.bits <= 32:
        return em.cast(op, value, "double")
    if target.bits == 64 and rounding == "rn":
        return em.cast(op, value, "double")
    if target.bits == 32 and target.packed != 2 and rounding == "rn":
        return em.cast(op, value, "float")
    if source.bits <= 32:
        exact = em.cast(op, value, "double")
        if target.half:
            return numeric.half_directed(em, numeric.odd_to_single(em, exact), target, rounding)
        return numeric.single_directed(em, exact, rounding)
    # 64-bit integers: 64 bits to 53 rounded to odd by hand (the dropped bits are or-ed into the lowest kept).
    negative = em.icmp("slt", value, em.const("i64", 0)) if source.signed else em.const("i1", 0)
    magnitude = em.select(negative, em.binary("sub", em.const("i64", 0), value), value)
    low_mask = em.const("i64", 0x7FF)
    large = em.icmp("ugt", magnitude, em.const("i64", (1 << 53) - 1))
    if target.bits == 64:
        return _wide_directed(low, magnitude, negative, rounding)
    dropped = em.icmp("ne", em.binary("and", magnitude, low_mask), em.const("i64", 0))
    sticky = em.binary("shl", em.resize(dropped, 64), em.const("i64", 11))
    kept = em.binary("or", em.binary("and", magnitude, em.invert(low_mask)), sticky)
    exact = em.cast("uitofp", em.select(large, kept, magnitude), "double")
    exact = em.select(negative, em.fneg(exact), exact)
    if target.half:
        return numeric.half_directed(em, numeric.odd_to_single(em, exact), target, rounding)
    return numeric.single_directed(em, exact, rounding)


def _wide_directed(low: Lowering, magnitude: Value, negative: Value, rounding: str) -> Value:
    em = low.em
    nearest = em.cast("uitofp", magnitude, "double")
    # 2^64 saturates to the largest integer, which no magnitude that rounds to 2^64 exceeds.
    back = em.call("llvm.fptoui.sat.i64.f64", "i64", [nearest])
    past = em.fcmp("oeq", nearest, em.real("double", 2.0**64))
    one = em.real("double", 1.0)
    up = em.select(em.icmp("ugt", magnitude, back), one, em.real("double", 0.0))
    below = em.binary("or", past, em.icmp("ult", magnitude, back))
    error = em.select(below, em.fneg(one), up)
    value = em.select(negative, em.fneg(nearest), nearest)
    return numeric.directed(em, value, em.select(negative, em.fneg(error), error), rounding)


def _integer_to_integer(
    low: Lowering, value: Value, source: ScalarType, target: ScalarType, *, sat: bool
) -> Value:
    em = low.em
    if not sat:
        return em.resize(value, target.bits, signed=source.signed)
    wide = em.resize(value, 128, signed=source.signed)
    bits = target.bits
    least = -(1 << (bits - 1)) if target.signed else 0
    most = (1 << (bits - 1)) - 1 if target.signed else (1 << bits) - 1
    clamped = em.intrinsic("smax", "i128", wide, em.const("i128", least))
    return em.resize(em.intrinsic("smin", "i128", clamped, em.const("i128", most)), bits)


def cvta(low: Lowering, ins: Instruction) -> None:
    """cvta: shared addresses are offsets from the block's shared memory; all others are generic already."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    back = options.flag("to")
    space = options.required(*_WINDOWS)
    options.done()
    operands = low.operands(ins, 2)
    value = em.resize(low.read(operands[1], scalar), 64)
    if space.startswith("shared"):
        base = em.cast("ptrtoint", low.shared_base(), "i64")
        value = em.binary("sub" if back else "add", value, base)
    low.write(operands[0], em.resize(value, scalar.bits), scalar)


def isspacep(low: Lowering, ins: Instruction) -> None:
    """isspacep: which window a generic address is in."""
    em = low.em
    options = low.options(ins)
    space = options.required(*_WINDOWS)
    options.done()
    operands = low.operands(ins, 2)
    address = low.read(operands[1], U64)
    base = em.cast("ptrtoint", low.shared_base(), "i64")
    dynamic = em.resize(low.launch_field(DYNAMIC_SHARED), 64)
    size = em.binary("add", dynamic, em.const("i64", max(low.layout.dynamic_offset, 1)))
    shared = em.icmp("ult", em.binary("sub", address, base), size)
    local = em.const("i1", 0)
    for cell, length in low.local_ranges():
        start = em.cast("ptrtoint", cell, "i64")
        inside = em.icmp("ult", em.binary("sub", address, start), em.const("i64", length))
        local = em.binary("or", local, inside)
    constant = em.const("i1", 0)
    for variable in low.layout.globals.values():
        if variable.space == "const":
            start = em.cast("ptrtoint", Value(variable.reference, "ptr", True), "i64")
            inside = em.icmp("ult", em.binary("sub", address, start), em.const("i64", max(variable.size, 1)))
            constant = em.binary("or", constant, inside)
    if space.startswith("shared"):
        result = shared
    elif space == "local":
        result = local
    elif space == "const":
        result = constant
    elif space == "global":
        result = em.invert(em.binary("or", em.binary("or", shared, local), constant))
    else:
        result = em.const("i1", 0)
    low.write(operands[0], result, PRED)


CONVERT: dict[str, Handler] = {"mov": mov, "cvt": cvt, "cvta": cvta, "isspacep": isspacep}

__all__ = ["CONVERT", "Kind", "Options", "llvm_bits"]
