"""The special-function unit: ex2, lg2, sin, cos, tanh, rsqrt.

Polynomials in IR rather than calls of libm: they vectorise, and object code needs nothing from the process
it is loaded into. All are at least as accurate as PTX promises for its `.approx` forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.emitter import Emitter, Value
from gpudisagg.device.cpu.lowering import numeric
from gpudisagg.device.cpu.lowering.context import Handler, Lowering

# 2^x on [-1/2, 1/2]: the Taylor series of exp(x ln 2); the first term dropped is below 2^-27.
_EX2 = (1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477,
        0.0013333558146428443, 0.00015403530393381608)  # fmt: skip
# log2((1 + s) / (1 - s)) / s in powers of s squared.
_LG2 = (2.885390081777927, 0.961796693925976, 0.5770780163555854, 0.4121985831111324, 0.3205988979753252)
_SIN = (-0.16666667, 0.008333329, -0.00019840874, 2.7525562e-06)
_COS = (-0.5, 0.041666646, -0.0013888378, 2.4760495e-05)


def _polynomial(em: Emitter, x: Value, coefficients: Sequence[float]) -> Value:
    result = em.real("float", coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = em.intrinsic("fma", "float", result, x, em.real("float", coefficient))
    return result


def _power_of_two(em: Emitter, exponent: Value) -> Value:
    """2^n for n in the normal range, from an i32."""
    biased = em.binary("add", exponent, em.const("i32", 127))
    return em.bitcast(em.binary("shl", biased, em.const("i32", 23)), "float")


def ex2(em: Emitter, x: Value) -> Value:
    """2^x."""
    low, high = em.real("float", -160.0), em.real("float", 160.0)
    clamped = em.select(em.fcmp("olt", x, low), low, em.select(em.fcmp("ogt", x, high), high, x))
    whole = em.intrinsic("rint", "float", clamped)
    value = _polynomial(em, em.binary("fsub", clamped, whole), _EX2)
    exponent = em.call("llvm.fptosi.sat.i32.f32", "i32", [whole])
    half = em.binary("ashr", exponent, em.const("i32", 1))
    # Scaled in two steps: one factor alone can't reach the subnormals or the overflow.
    value = em.binary("fmul", value, _power_of_two(em, half))
    value = em.binary("fmul", value, _power_of_two(em, em.binary("sub", exponent, half)))
    return em.select(em.fcmp("uno", x, x), x, value)


def lg2(em: Emitter, x: Value) -> Value:
    """log2(x)."""
    tiny = em.fcmp("olt", x, em.const("float", 0x00800000))
    scaled = em.select(tiny, em.binary("fmul", x, em.real("float", 2.0**24)), x)
    bits = em.bitcast(scaled, "i32")
    # Split at sqrt(1/2), so that the logarithm of numbers near 1 loses nothing.
    shifted = em.binary("sub", bits, em.const("i32", 0x3F3504F3))
    exponent = em.binary("ashr", shifted, em.const("i32", 23))
    mantissa = em.bitcast(em.binary("sub", bits, em.binary("shl", exponent, em.const("i32", 23))), "float")
    one = em.real("float", 1.0)
    s = em.binary("fdiv", em.binary("fsub", mantissa, one), em.binary("fadd", mantissa, one))
    series = _polynomial(em, em.binary("fmul", s, s), _LG2)
    whole = em.cast("sitofp", exponent, "float")
    whole = em.select(tiny, em.binary("fsub", whole, em.real("float", 24.0)), whole)
    result = em.intrinsic("fma", "float", s, series, whole)
    infinity, nan = em.const("float", 0x7F800000), em.const("float", 0x7FFFFFFF)
    result = em.select(em.fcmp("oeq", x, infinity), infinity, result)
    result = em.select(em.fcmp("oeq", x, em.real("float", 0.0)), em.const("float", 0xFF800000), result)
    return em.select(em.fcmp("ult", x, em.real("float", 0.0)), nan, result)


def _circular(em: Emitter, x: Value, quarter: int) -> Value:
    """sin(x + quarter * pi/2), with pi/2 subtracted in three exact-enough parts."""
    turns = em.intrinsic("rint", "float", em.binary("fmul", x, em.real("float", 0.6366197723675814)))
    reduced = x
    for part in (1.5707963705062866, -4.371139000186243e-08, -1.7151245100058819e-15):
        reduced = em.intrinsic("fma", "float", turns, em.real("float", -part), reduced)
    square = em.binary("fmul", reduced, reduced)
    sine = em.intrinsic(
        "fma", "float", em.binary("fmul", reduced, square), _polynomial(em, square, _SIN), reduced
    )
    cosine = em.intrinsic("fma", "float", square, _polynomial(em, square, _COS), em.real("float", 1.0))
    n = em.binary("add", em.call("llvm.fptosi.sat.i32.f32", "i32", [turns]), em.const("i32", quarter))
    odd = em.icmp("ne", em.binary("and", n, em.const("i32", 1)), em.const("i32", 0))
    value = em.select(odd, cosine, sine)
    flip = em.icmp("ne", em.binary("and", n, em.const("i32", 2)), em.const("i32", 0))
    return em.select(flip, em.fneg(value), value)


def sin(em: Emitter, x: Value) -> Value:
    """sin(x), for arguments up to about 1e5."""
    return _circular(em, x, 0)


def cos(em: Emitter, x: Value) -> Value:
    """cos(x), for arguments up to about 1e5."""
    return _circular(em, x, 1)


def tanh(em: Emitter, x: Value) -> Value:
    """tanh(x)."""
    magnitude = numeric.absolute(em, x)
    power = ex2(em, em.binary("fmul", magnitude, em.real("float", 2.8853900817779268)))
    one = em.real("float", 1.0)
    large = em.binary("fsub", one, em.binary("fdiv", em.real("float", 2.0), em.binary("fadd", power, one)))
    square = em.binary("fmul", magnitude, magnitude)
    series = _polynomial(em, square, (1.0, -0.33333334, 0.13333334, -0.053968254))
    small = em.binary("fmul", magnitude, series)
    value = em.select(em.fcmp("olt", magnitude, em.real("float", 0.3)), small, large)
    return em.intrinsic("copysign", "float", value, x)


def rsqrt(em: Emitter, x: Value) -> Value:
    """1 / sqrt(x)."""
    return em.binary("fdiv", em.real(x.type, 1.0), em.intrinsic("sqrt", x.type, x))


FUNCTIONS: dict[str, Callable[[Emitter, Value], Value]] = {
    "ex2": ex2,
    "lg2": lg2,
    "sin": sin,
    "cos": cos,
    "tanh": tanh,
    "rsqrt": rsqrt,
}


def function(low: Lowering, ins: Instruction) -> None:
    """A function of one argument; f64 is taken by rsqrt alone."""
    em = low.em
    options = low.options(ins)
    scalar = options.type()
    options.required("approx")
    ftz = options.flag("ftz")
    options.done()
    if not scalar.floating or (scalar.bits == 64 and ins.opcode != "rsqrt"):
        raise options.unsupported()
    operands = low.operands(ins, 2)

    def element(values: Sequence[Value]) -> Value:
        wide = numeric.widen(em, values[0], scalar)
        result = FUNCTIONS[ins.opcode](em, numeric.flush_as(em, wide, scalar) if ftz else wide)
        return numeric.narrow(em, numeric.flush_as(em, result, scalar) if ftz else result, scalar)

    value = low.read(operands[1], scalar)
    low.write(operands[0], numeric.elementwise(em, scalar, [value], element), scalar)


APPROXIMATE: dict[str, Handler] = dict.fromkeys(FUNCTIONS, function)
