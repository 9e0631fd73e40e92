"""Halves against exact rational arithmetic: each result is the exact one, rounded once."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device import formats
from tests.device.elementwise import Array, elementwise
from tests.device.formats import BY_NAME, NAN, Format, Number, add, less, multiply, negated


def codes(bits: int) -> st.SearchStrategy[int]:
    """Bit patterns, of which those near zero, one and the ends come often."""
    top = 1 << bits
    near = st.sampled_from(
        [0, top >> 1, top - 1, (top >> 1) - 1, 0x3C00, 0xBC00, 0x3F80, 0x7C00, 0x7F80, 0x400]
    )
    return st.one_of(st.integers(0, top - 1), st.builds(lambda a, b: (a + b) % top, near, st.integers(-3, 3)))


triples = st.lists(st.tuples(codes(16), codes(16), codes(16)), min_size=1, max_size=40)


def agree(got: list[int], want: list[Number], kind: Format) -> None:
    for code, number in zip(got, want, strict=True):
        expected = kind.encode(number)
        if expected is None:
            assert kind.decode(code) == NAN
        else:
            assert code == expected, f"{code:#x} instead of {expected:#x}"


def operate(name: str, x: Number, y: Number, z: Number) -> Number:
    if name == "fma":
        return add(multiply(x, y), z)
    if name == "mul":
        return multiply(x, y)
    return add(x, negated(y) if name == "sub" else y)


def finished(value: Number, kind: Format, flags: list[str]) -> Number:
    if "relu" in flags and value != NAN and less(value, Fraction(0)):
        return Fraction(0)
    value = kind.round(value)
    if "ftz" in flags:
        value = kind.flush(value)
    if "sat" in flags:
        if value == NAN or not less(Fraction(0), value):
            return Fraction(0)
        return Fraction(1) if less(Fraction(1), value) else value
    return value


CASES = [
    *[
        ("f16", op, flags)
        for op in ("add", "sub", "mul", "fma")
        for flags in ([], ["ftz"], ["sat"], ["ftz", "sat"])
    ],
    *[(kind, "fma", ["relu"]) for kind in ("f16", "bf16")],
    *[("bf16", op, []) for op in ("add", "sub", "mul", "fma")],
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "operation", "flags"), CASES)
@settings(max_examples=8, deadline=None)
@given(triples)
def test_arithmetic(
    name: str, operation: str, flags: list[str], packed: bool, values: list[tuple[int, int, int]]
) -> None:
    kind = BY_NAME[name]
    columns = np.array(values + values[::-1] if packed else values, np.uint16)
    operands = columns.reshape(-1, 2, 3).transpose(0, 2, 1) if packed else columns
    inputs = [np.ascontiguousarray(operands[:, i]) for i in range(3)]
    if packed:
        inputs = [v.view(np.uint32).ravel() for v in inputs]
    used = inputs if operation == "fma" else inputs[:2]
    text = ".".join([operation, "rn", *flags, name + ("x2" if packed else "")])
    out = elementwise(
        f"{text} %out, {', '.join(f'%{c}' for c in 'abc'[: len(used)])};", used, inputs[0].dtype
    )
    want = []
    for row in columns.tolist():
        x, y, z = (kind.decode(code) for code in row)
        if "ftz" in flags:
            x, y, z = (kind.flush(v) for v in (x, y, z))
        want.append(finished(operate(operation, x, y, z), kind, flags))
    agree(out.view(np.uint16).tolist(), want, kind)


def smaller(x: Number, y: Number) -> bool:
    """-0 is below +0."""
    if x == 0 and y == 0:
        return isinstance(x, float) and not isinstance(y, float)
    return less(x, y)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("opcode", ["min", "max"])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("f16", []),
        ("f16", ["ftz"]),
        ("f16", ["NaN"]),
        ("bf16", []),
        ("bf16", ["NaN"]),
        ("f16", ["ftz", "NaN", "xorsign", "abs"]),
        ("bf16", ["xorsign", "abs"]),
    ],
)
@settings(max_examples=8, deadline=None)
@given(triples)
def test_minimum_and_maximum(
    name: str, flags: list[str], opcode: str, packed: bool, values: list[tuple[int, int, int]]
) -> None:
    kind = BY_NAME[name]
    columns = np.array(values + values[::-1] if packed else values, np.uint16)
    operands = columns.reshape(-1, 2, 3).transpose(0, 2, 1) if packed else columns
    inputs = [np.ascontiguousarray(operands[:, i]) for i in range(2)]
    if packed:
        inputs = [v.view(np.uint32).ravel() for v in inputs]
    text = ".".join([opcode, *flags, name + ("x2" if packed else "")])
    out = elementwise(f"{text} %out, %a, %b;", inputs, inputs[0].dtype)
    want: list[Number] = []
    for a, b, _ in columns.tolist():
        x, y = kind.decode(a), kind.decode(b)
        if "ftz" in flags:
            x, y = kind.flush(x), kind.flush(y)
        negative = (a ^ b) >> 15
        if "abs" in flags:
            x, y = (v if v == NAN else _absolute(v) for v in (x, y))
        if NAN in (x, y):
            result = NAN if "NaN" in flags or x == y else y if x == NAN else x
        else:
            result = x if smaller(x, y) == (opcode == "min") else y
        if "xorsign" in flags and result != NAN and negative:
            result = negated(result)
        want.append(result)
    agree(out.view(np.uint16).tolist(), want, kind)


def _absolute(x: Number) -> Number:
    return negated(x) if math.copysign(1, float(x)) < 0 else x  # type: ignore[arg-type]


@pytest.mark.parametrize("ftz", ["", ".ftz"])
@pytest.mark.parametrize("comparison", ["eq", "ne", "lt", "geu", "num", "nan"])
@settings(max_examples=10, deadline=None)
@given(triples)
def test_comparison_of_pairs(comparison: str, ftz: str, values: list[tuple[int, int, int]]) -> None:
    columns = np.array(values + values[::-1], np.uint16)
    a, b = (np.ascontiguousarray(columns[:, i]).view(np.uint32) for i in range(2))
    body = f"setp.{comparison}{ftz}.f16x2 %p1|%p2, %a, %b; selp.u32 %r8, 1, 0, %p1; selp.u32 %out, 2, 0, %p2;"
    out = elementwise(body + "or.b32 %out, %out, %r8;", [a, b], np.uint32)
    x, y = (columns[:, i].copy() for i in range(2))
    if ftz:
        for v in (x, y):
            v[(v & 0x7C00) == 0] &= 0x8000
    x, y = x.view(np.float16), y.view(np.float16)
    unordered = np.isnan(x) | np.isnan(y)
    holds = {
        "eq": x == y,
        "ne": (x != y) & ~unordered,
        "lt": x < y,
        "geu": (x >= y) | unordered,
        "num": ~unordered,
        "nan": unordered,
    }[comparison]
    np.testing.assert_array_equal(out, holds[::2] * 1 + holds[1::2] * 2)


def near_bf16(code: int, more: int) -> float:
    return float(np.uint32((code << 16) + more).view(np.float32))


def near_f16(code: int, half_units: int) -> float:
    value = np.uint16(code).view(np.float16)
    return float(value) + half_units * float(np.spacing(np.float32(value))) if np.isfinite(value) else 0.0


floats = st.one_of(
    st.floats(width=32),
    st.floats(-70000, 70000, width=32),
    st.floats(-(2.0**-13), 2.0**-13, width=32),
    st.builds(near_bf16, codes(16), st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])),
    st.builds(near_f16, codes(16), st.integers(-2, 2)),
)


def exact(value: float) -> Number:
    if math.isnan(value):
        return NAN
    return value if math.isinf(value) or (value == 0 and math.copysign(1, value) < 0) else Fraction(value)


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("target", ["f16", "bf16", "f32"])
@settings(max_examples=10, deadline=None)
@given(st.lists(st.one_of(floats, st.floats()), min_size=1, max_size=40))
def test_narrowing(target: str, mode: str, source: str, values: list[float]) -> None:
    if (source == "f32" and target == "f32") or (source == "f64" and target == "bf16"):
        return
    kind = BY_NAME[target]
    with np.errstate(over="ignore"):
        inputs = np.array(values, np.float32 if source == "f32" else np.float64)
    out = elementwise(f"cvt.{mode}.{target}.{source} %out, %a;", [inputs], np.dtype(f"u{kind.bits // 8}"))
    agree(out.tolist(), [kind.round(exact(float(v)), mode) for v in inputs], kind)


@pytest.mark.parametrize("flag", ["", ".relu", ".satfinite", ".relu.satfinite"])
@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("target", ["f16x2", "bf16x2"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=30))
def test_narrowing_of_two(target: str, mode: str, flag: str, values: list[tuple[float, float]]) -> None:
    kind = BY_NAME[target[:-2]]
    pairs = np.array(values, np.float32)
    high, low = (np.ascontiguousarray(pairs[:, i]) for i in range(2))
    out = elementwise(f"cvt.{mode}{flag}.{target}.f32 %out, %a, %b;", [high, low], np.uint32)
    want: list[Number] = []
    for a, b in pairs.tolist():
        for value in (b, a):
            number = exact(value)
            if "relu" in flag and number != NAN and less(number, Fraction(0)):
                number = Fraction(0)
            number = kind.round(number, mode)
            if "satfinite" in flag and number != NAN and abs(number) == math.inf:  # type: ignore[arg-type]
                number = kind.greatest if less(Fraction(0), number) else -kind.greatest
            want.append(number)
    agree(out.view(np.uint16).tolist(), want, kind)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_eight_bit_floats_widen_exactly(name: str) -> None:
    kind = BY_NAME[name]
    every = np.arange(256, dtype=np.uint16)
    inputs = np.concatenate([every | every[::-1] << 8, every << 8 | 1]).astype(np.uint16)
    out = elementwise(f"cvt.rn.f16x2.{name}x2 %out, %a;", [inputs], np.uint32)
    agree(
        out.view(np.uint16).tolist(),
        [kind.decode(code) for code in inputs.view(np.uint8).tolist()],
        formats.F16,
    )


@pytest.mark.parametrize("source", ["f32", "f16x2"])
@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=30))
def test_narrowing_to_eight_bits(name: str, source: str, values: list[tuple[float, float]]) -> None:
    kind = BY_NAME[name]
    with np.errstate(over="ignore"):
        pairs = np.array(values, np.float32 if source == "f32" else np.float16)
    text = f"cvt.rn.satfinite.{name}x2.{source}"
    if source == "f32":
        high, low = (np.ascontiguousarray(pairs[:, i]) for i in range(2))
        out = elementwise(f"{text} %out, %a, %b;", [high, low], np.uint16)
    else:
        out = elementwise(f"{text} %out, %a;", [pairs[:, ::-1].copy().view(np.uint32).ravel()], np.uint16)
    for code, value in zip(out.view(np.uint8).tolist(), pairs[:, ::-1].ravel().tolist(), strict=True):
        number = exact(value)
        if number == NAN:
            assert code == 0x7F
            continue
        number = kind.round(number) if abs(value) != math.inf else number
        if abs(number) == math.inf:  # type: ignore[arg-type]
            number = kind.greatest if less(Fraction(0), number) else -kind.greatest
        assert code == kind.encode(number)


@pytest.mark.parametrize("mode", ["rna", "rn", "rz"])
@settings(max_examples=15, deadline=None)
@given(st.lists(floats, min_size=1, max_size=40))
def test_tf32_has_ten_bits_of_mantissa(mode: str, values: list[float]) -> None:
    inputs = np.array(values, np.float32)
    out = elementwise(f"cvt.{mode}.tf32.f32 %out, %a;", [inputs], np.uint32)
    kind = formats.Format(19, 10, -126, 127)
    for code, value in zip(out.tolist(), inputs.tolist(), strict=True):
        expected = kind.encode(kind.round(exact(value), mode))
        assert code == (0x7FFFFFFF if expected is None else expected << 13)


def single(value: Array) -> list[Number]:
    return [exact(float(v)) for v in value]


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("operation", ["add", "sub", "fma"])
@pytest.mark.parametrize("half", ["f16", "bf16"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(codes(16), codes(16), floats), min_size=1, max_size=30))
def test_halves_added_to_singles(
    half: str, operation: str, mode: str, values: list[tuple[int, int, float]]
) -> None:
    kind = BY_NAME[half]
    a, b = (np.array([v[i] for v in values], np.uint16) for i in range(2))
    c = np.array([v[2] for v in values], np.float32)
    operands = [a, b, c] if operation == "fma" else [a, c]
    names = ", ".join(f"%{n}" for n in "abc"[: len(operands)])
    out = elementwise(f"{operation}.{mode}.f32.{half} %out, {names};", operands, np.uint32)
    want = []
    for x, y, z in zip(a.tolist(), b.tolist(), single(c), strict=True):
        p, q = kind.decode(x), kind.decode(y)
        if operation == "fma":
            value = add(multiply(p, q), z, mode)
        else:
            value = add(p, negated(z) if operation == "sub" else z, mode)
        want.append(formats.F32.round(value, mode))
    agree(out.tolist(), want, formats.F32)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "fma"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(floats, floats, floats), min_size=2, max_size=30).filter(lambda v: len(v) % 2 == 0))
def test_pairs_of_singles(operation: str, mode: str, values: list[tuple[float, float, float]]) -> None:
    table = np.array(values, np.float32)
    columns = [np.ascontiguousarray(table[:, i]) for i in range(3 if operation == "fma" else 2)]
    names = ", ".join(f"%{n}" for n in "abc"[: len(columns)])
    packed = [c.view(np.uint64) for c in columns]
    out = elementwise(f"{operation}.{mode}.f32x2 %out, {names};", packed, np.uint64)
    want = []
    for row in table.tolist():
        x, y, z = (exact(v) for v in row)
        if operation == "fma":
            value = add(multiply(x, y), z, mode)
        elif operation == "mul":
            value = multiply(x, y)
        else:
            value = add(x, negated(y) if operation == "sub" else y, mode)
        want.append(formats.F32.round(value, mode))
    agree(out.view(np.uint32).tolist(), want, formats.F32)
