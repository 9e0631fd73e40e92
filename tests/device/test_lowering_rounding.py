"""Directed rounding of singles and doubles, at the ends of their range too, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device.elementwise import elementwise
from tests.device.formats import BY_NAME, NAN, Format, Number, add, multiply, negated
from tests.device.test_lowering_half import agree, exact


def numbers(kind: Format) -> st.SearchStrategy[int]:
    """Bit patterns: any, those near the ends of the exponents' range, and those of few bits."""
    top = 1 << kind.bits
    field = kind.mantissa
    ends = st.sampled_from([0, 1, 2, kind.most - kind.least, kind.most - kind.least + 1])
    at_ends = st.builds(
        lambda s, e, m: (s << (kind.bits - 1)) | (e << field) | m,
        st.integers(0, 1),
        ends,
        st.one_of(st.integers(0, (1 << field) - 1), st.integers(0, 3)),
    )
    middle = -kind.least + 1
    few = st.builds(
        lambda s, e, m: (s << (kind.bits - 1)) | (e << field) | (m << (field - 3)),
        st.integers(0, 1),
        st.integers(middle - 30, middle + 30),
        st.integers(0, 7),
    )
    return st.one_of(st.integers(0, top - 1), at_ends, few)


def quotient(x: Number, y: Number) -> Number:
    if NAN in (x, y):
        return NAN
    assert not isinstance(x, str) and not isinstance(y, str)
    sign = math.copysign(1, float_sign(x)) * math.copysign(1, float_sign(y))
    infinite = [isinstance(v, float) and math.isinf(v) for v in (x, y)]
    if all(infinite) or (x == 0 and y == 0):
        return NAN
    if infinite[1] or x == 0:
        return -0.0 if sign < 0 else Fraction(0)
    if infinite[0] or y == 0:
        return sign * math.inf
    assert isinstance(x, Fraction) and isinstance(y, Fraction)
    return x / y


def float_sign(x: Fraction | float) -> float:
    return x if isinstance(x, float) else (-1.0 if x < 0 else 1.0)


def computed(operation: str, v: list[Number], mode: str) -> Number:
    """The exact result."""
    if operation in ("add", "sub"):
        return add(v[0], v[1] if operation == "add" else negated(v[1]), mode)
    if operation == "mul":
        return multiply(v[0], v[1])
    if operation == "fma":
        return add(multiply(v[0], v[1]), v[2], mode)
    return quotient(v[0], v[1]) if operation == "div" else quotient(Fraction(1), v[0])


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "fma", "div", "rcp"])
@pytest.mark.parametrize("name", ["f32", "f64"])
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_arithmetic_in_every_direction(name: str, operation: str, mode: str, data: st.DataObject) -> None:
    kind = BY_NAME[name]
    count = {"fma": 3, "rcp": 1}.get(operation, 2)
    rows = data.draw(st.lists(st.tuples(*[numbers(kind)] * count), min_size=1, max_size=30))
    columns = [np.array([row[i] for row in rows], f"u{kind.bits // 8}") for i in range(count)]
    names = ", ".join(f"%{n}" for n in "abc"[:count])
    out = elementwise(f"{operation}.{mode}.{name} %out, {names};", columns, columns[0].dtype)
    want = []
    for row in rows:
        value = computed(operation, [kind.decode(code) for code in row], mode)
        want.append(kind.round(value, mode))
    agree(out.tolist(), want, kind)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["f32", "f64"])
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_roots_in_every_direction(name: str, mode: str, data: st.DataObject) -> None:
    kind = BY_NAME[name]
    codes = data.draw(st.lists(numbers(kind), min_size=1, max_size=30))
    column = np.array(codes, f"u{kind.bits // 8}")
    out = elementwise(f"sqrt.{mode}.{name} %out, %a;", [column], column.dtype)
    for code, got in zip(codes, out.tolist(), strict=True):
        x, root = kind.decode(code), kind.decode(got)
        if x == NAN or (x != 0 and float_sign(x) < 0):  # type: ignore[arg-type]
            assert root == NAN
        elif not isinstance(x, Fraction) or x == 0:
            assert got == code
        else:
            # The neighbours' squares enclose it, on the side that the mode says.
            assert isinstance(root, Fraction)
            above, below = kind.decode(got + 1), kind.decode(got - 1)
            assert isinstance(above, Fraction) and isinstance(below, Fraction)
            if mode == "rn":
                assert ((root + below) / 2) ** 2 <= x <= ((root + above) / 2) ** 2
            elif mode == "rp":
                assert below**2 < x <= root**2
            else:
                assert root**2 <= x < above**2


def test_the_reference_reads_bits_as_numpy_does() -> None:
    codes = np.random.default_rng(0).integers(0, 1 << 16, 1000, dtype=np.uint16)
    for code, value in zip(codes.tolist(), codes.view(np.float16).tolist(), strict=True):
        decoded = BY_NAME["f16"].decode(code)
        assert decoded == exact(value)
