"""Conversions, comparisons, selection and packing against numpy and exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.device.elementwise import edge_floats, edge_integers, elementwise, same_floats

ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("target", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("mode", ROUND)
def test_float_to_integer_clamps(source: str, target: str, mode: str) -> None:
    values = edge_floats(source.replace("f", "float"), 100)
    bits = int(target[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
    register = {8: "u16", 16: "u16", 32: "u32", 64: "u64"}[bits]
    got = elementwise(f"cvt.{mode}.{target}.{source} %out, %a;", [values], register.replace("u", "uint"))
    for value, result in zip(values, got.tolist(), strict=True):
        if np.isnan(value):
            want = 1 << (bits - 1) if source == "f64" or bits == 64 else 0
            assert result & ((1 << bits) - 1) == want
            continue
        with np.errstate(all="ignore"):
            rounded = float(ROUND[mode](np.float64(value)))
        want = high if rounded > high else low if rounded < low else int(rounded)
        assert result & ((1 << bits) - 1) == want & ((1 << bits) - 1), value


@pytest.mark.parametrize("source", ["u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("target", ["f32", "f64"])
@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_integer_to_float_rounds_as_asked(source: str, target: str, mode: str) -> None:
    bits = int(source[1:])
    a, _ = edge_integers(bits)
    values = a.view(f"i{bits // 8}") if source[0] == "s" else a
    kind = np.dtype(target.replace("f", "float"))
    got = elementwise(f"cvt.{mode}.{target}.{source} %out, %a;", [a], kind)
    for value, result in zip(values.tolist(), got, strict=True):
        exact = Fraction(value)
        if mode == "rn":
            assert abs(Fraction(float(result)) - exact) <= abs(
                Fraction(float(np.nextafter(result, kind.type(np.inf)))) - exact
            )
            continue
        low = Fraction(float(np.nextafter(result, kind.type(-np.inf))))
        high = Fraction(float(np.nextafter(result, kind.type(np.inf))))
        below, above = Fraction(float(result)) <= exact < high, low < exact <= Fraction(float(result))
        assert {"rm": below, "rp": above, "rz": below if value >= 0 else above}[mode], value


def test_between_floats() -> None:
    halves, singles, doubles = (edge_floats(t) for t in (np.float16, np.float32, np.float64))
    with np.errstate(all="ignore"):
        same_floats(elementwise("cvt.f32.f16 %out, %a;", [halves], np.float32), halves.astype(np.float32))
        same_floats(
            elementwise("cvt.rn.f16.f32 %out, %a;", [singles], np.float16), singles.astype(np.float16)
        )
        same_floats(
            elementwise("cvt.rn.f16.f64 %out, %a;", [doubles], np.float16), doubles.astype(np.float16)
        )
        same_floats(
            elementwise("cvt.rn.f32.f64 %out, %a;", [doubles], np.float32), doubles.astype(np.float32)
        )
        same_floats(elementwise("cvt.f64.f32 %out, %a;", [singles], np.float64), singles.astype(np.float64))
        got = elementwise("cvt.sat.f32.f32 %out, %a;", [singles], np.float32)
        np.testing.assert_array_equal(got, np.nan_to_num(np.clip(singles, 0, 1), nan=0.0))
        same_floats(elementwise("cvt.rni.f32.f32 %out, %a;", [singles], np.float32), np.rint(singles))


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_half_in_directed_modes(mode: str) -> None:
    values = (np.random.default_rng(7).standard_normal(600) * 10.0 ** np.linspace(-7, 3, 600)).astype(
        np.float32
    )
    got = elementwise(f"cvt.{mode}.f16.f32 %out, %a;", [values], np.float16)
    for value, result in zip(values, got, strict=True):
        low, high = (float(np.nextafter(result, np.float16(d))) for d in (-np.inf, np.inf))
        below, above = float(result) <= value < high, low < value <= float(result)
        assert {"rm": below, "rp": above, "rz": below if value > 0 else above}[mode], value


def test_integer_widths_and_saturation() -> None:
    a, _ = edge_integers(32)
    signed = a.view(np.int32)
    np.testing.assert_array_equal(elementwise("cvt.s64.s32 %out, %a;", [a], np.int64), signed)
    np.testing.assert_array_equal(elementwise("cvt.u64.u32 %out, %a;", [a], np.uint64), a)
    np.testing.assert_array_equal(elementwise("cvt.s32.s8 %out, %a;", [a], np.int32), signed.astype(np.int8))
    np.testing.assert_array_equal(
        elementwise("cvt.sat.s16.s32 %out, %a;", [a], np.int16), np.clip(signed, -32768, 32767)
    )
    np.testing.assert_array_equal(
        elementwise("cvt.sat.u8.s32 %h1, %a; cvt.u32.u16 %out, %h1;", [a], np.uint32), np.clip(signed, 0, 255)
    )


COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("kind", ["u32", "s32", "f32", "f16"])
def test_comparisons(name: str, kind: str) -> None:
    if kind[0] == "f":
        values = edge_floats(kind.replace("f", "float"), 60)
        a, b = (v.ravel() for v in np.meshgrid(values[:20], values[:20]))
    else:
        a, b = edge_integers(32)
        if kind == "s32":
            a, b = a.view(np.int32), b.view(np.int32)
    want = eval(f"a {COMPARISONS[name]} b")
    if name == "ne" and kind[0] == "f":
        want &= ~(np.isnan(a) | np.isnan(b))
    text = f"""setp.{name}.{kind} %p1|%p2, %a, %b; selp.u32 %r8, 1, 0, %p1; selp.u32 %r9, 2, 0, %p2;
    or.b32 %out, %r8, %r9;"""
    got = elementwise(text, [a, b], np.uint32)
    np.testing.assert_array_equal(got, np.where(want, 1, 2))
    if kind[0] == "f":
        unordered = elementwise(
            f"setp.{name}u.{kind} %p1, %a, %b; selp.u32 %out, 1, 0, %p1;", [a, b], np.uint32
        )
        np.testing.assert_array_equal(unordered, want | np.isnan(a) | np.isnan(b))


def test_comparison_combined_with_a_predicate() -> None:
    a, b = edge_integers(32)
    text = """setp.gt.u32 %p3, %b, 5; setp.lt.and.s32 %p1|%p2, %a, 7, !%p3;
    selp.u32 %r8, 1, 0, %p1; @%p2 add.u32 %r8, %r8, 2; mov.u32 %out, %r8;"""
    got = elementwise(text, [a, b], np.uint32)
    holds, other = a.view(np.int32) < 7, ~(b > 5)
    np.testing.assert_array_equal(got, (holds & other) + 2 * (~holds & other))


def test_selection() -> None:
    a, b = edge_integers(32)
    got = elementwise("slct.u32.s32 %out, %a, 9, %b;", [a, b], np.uint32)
    np.testing.assert_array_equal(got, np.where(b.view(np.int32) >= 0, a, 9))
    got = elementwise("set.lt.u32.u32 %out, %a, %b;", [a, b], np.uint32)
    np.testing.assert_array_equal(got, np.where(a < b, 0xFFFFFFFF, 0))


def test_packing_and_unpacking() -> None:
    a, b = edge_integers(32)
    got = elementwise(
        "mov.b64 %rd8, {%a, %b}; mov.b64 {%r8, %r9}, %rd8; mov.b64 %out, {%r9, %r8};", [a, b], np.uint64
    )
    np.testing.assert_array_equal(got, b.astype(np.uint64) | a.astype(np.uint64) << np.uint64(32))
    got = elementwise("mov.b32 {%h1, %h2}, %a; mov.b32 %out, {%h2, %h1};", [a], np.uint32)
    np.testing.assert_array_equal(got, a >> 16 | a << 16)


def test_tf32_keeps_ten_bits() -> None:
    x = np.array([1.0, 1 + 2**-11, 1 + 2**-10, -(1 + 2**-11), math.inf], np.float32)
    got = elementwise("cvt.rna.tf32.f32 %out, %a;", [x], np.float32)
    np.testing.assert_array_equal(
        got, np.array([1, 1 + 2**-10, 1 + 2**-10, -(1 + 2**-10), np.inf], np.float32)
    )
