"""Integer and bit instructions against Python's integers, edges included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.device.elementwise import edge_integers, elementwise

WORD = 0xFFFFFFFF


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def check(
    instruction: str, bits: int, reference: Callable[[int, int], int], out_bits: int | None = None
) -> None:
    """`reference` of unsigned a and b, for edges and random values."""
    a, b = edge_integers(bits)
    out = elementwise(instruction, [a, b], f"u{(out_bits or bits) // 8}")
    mask = (1 << (out_bits or bits)) - 1
    want = [reference(int(x), int(y)) & mask for x, y in zip(a, b, strict=True)]
    assert out.tolist() == want, instruction


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
}


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("kind", "us")
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic(name: str, kind: str, bits: int) -> None:
    def value(x: int) -> int:
        return signed(x, bits) if kind == "s" else x

    check(f"{name}.{kind}{bits} %out, %a, %b;", bits, lambda a, b: BINARY[name](value(a), value(b)))


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("kind", "us")
def test_division_never_traps(kind: str, bits: int) -> None:
    def divide(a: int, b: int) -> int:
        if kind == "s":
            a, b = signed(a, bits), signed(b, bits)
        return -1 if b == 0 else truncated(a, b)

    def remainder(a: int, b: int) -> int:
        if kind == "s":
            a, b = signed(a, bits), signed(b, bits)
        return a if b == 0 else a - b * truncated(a, b)

    check(f"div.{kind}{bits} %out, %a, %b;", bits, divide)
    check(f"rem.{kind}{bits} %out, %a, %b;", bits, remainder)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_high_products(bits: int) -> None:
    check(f"mul.hi.u{bits} %out, %a, %b;", bits, lambda a, b: a * b >> bits)
    check(f"mul.hi.s{bits} %out, %a, %b;", bits, lambda a, b: signed(a, bits) * signed(b, bits) >> bits)


@pytest.mark.parametrize("bits", [16, 32])
def test_wide_products(bits: int) -> None:
    check(f"mul.wide.u{bits} %out, %a, %b;", bits, lambda a, b: a * b, 2 * bits)
    check(f"mul.wide.s{bits} %out, %a, %b;", bits, lambda a, b: signed(a, bits) * signed(b, bits), 2 * bits)
    mad = f"cvt.u{2 * bits}.u{bits} %{'r8' if bits == 16 else 'rd8'}, %b;"
    register = "%r8" if bits == 16 else "%rd8"
    check(f"{mad} mad.wide.u{bits} %out, %a, %b, {register};", bits, lambda a, b: a * b + b, 2 * bits)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_past_the_width(bits: int) -> None:
    amount = {16: "cvt.u32.u16 %r8, %b;", 32: "mov.u32 %r8, %b;", 64: "cvt.u32.u64 %r8, %b;"}[bits]
    check(f"{amount} shl.b{bits} %out, %a, %r8;", bits, lambda a, b: a << min(b & WORD, bits))
    check(f"{amount} shr.u{bits} %out, %a, %r8;", bits, lambda a, b: a >> min(b & WORD, bits))
    check(f"{amount} shr.s{bits} %out, %a, %r8;", bits, lambda a, b: signed(a, bits) >> min(b & WORD, bits))


@pytest.mark.parametrize("bits", [32, 64])
def test_counting(bits: int) -> None:
    check(f"popc.b{bits} %out, %a;", bits, lambda a, _: a.bit_count(), 32)
    check(f"clz.b{bits} %out, %a;", bits, lambda a, _: bits - a.bit_length(), 32)
    check(f"brev.b{bits} %out, %a;", bits, lambda a, _: int(f"{a:0{bits}b}"[::-1], 2))
    check(f"bfind.u{bits} %out, %a;", bits, lambda a, _: a.bit_length() - 1, 32)
    check(
        f"bfind.s{bits} %out, %a;",
        bits,
        lambda a, _: (
            (~a if signed(a, bits) < 0 else a).bit_length() - 1
            if signed(a, bits) >= 0
            else (~signed(a, bits)).bit_length() - 1
        ),
        32,
    )
    check(f"bfind.shiftamt.u{bits} %out, %a;", bits, lambda a, _: bits - a.bit_length() if a else -1, 32)


@pytest.mark.parametrize("bits", [32, 64])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bit_fields(bits: int, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, 2**bits - 1))
    b = data.draw(st.integers(0, 2**bits - 1))
    position, length = data.draw(st.integers(0, 255)), data.draw(st.integers(0, 255))
    control = np.array([position | length << 8], np.uint32)
    arrays = [np.array([a], f"u{bits // 8}"), np.array([b], f"u{bits // 8}"), control]
    unpack = "and.b32 %r8, %c, 255; shr.u32 %r9, %c, 8;"
    mask = (1 << length) - 1

    def run(text: str) -> int:
        return int(elementwise(unpack + text, arrays, f"u{bits // 8}")[0])

    whole = (1 << bits) - 1
    assert run(f"bfe.u{bits} %out, %a, %r8, %r9;") == (a >> position) & mask
    field = (signed(a, bits) >> position) & mask
    top = min(position + length - 1, bits - 1)
    sign = length > 0 and a >> top & 1
    extended = field | (~mask if sign else 0)
    assert run(f"bfe.s{bits} %out, %a, %r8, %r9;") == (extended & whole if length else 0)
    placed = (mask << position) & whole
    assert run(f"bfi.b{bits} %out, %a, %b, %r8, %r9;") == (a << position & placed) | (b & ~placed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 255), st.integers(0, WORD), st.integers(0, WORD), st.integers(0, WORD))
def test_lop3_is_its_table(table: int, a: int, b: int, c: int) -> None:
    arrays = [np.array([v], np.uint32) for v in (a, b, c)]
    out = int(elementwise(f"lop3.b32 %out, %a, %b, %c, {table};", arrays, np.uint32)[0])
    rows = [(a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32)]
    assert out == sum((table >> row & 1) << i for i, row in enumerate(rows))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, WORD), st.integers(0, WORD), st.integers(0, 0xFFFF))
def test_prmt_picks_bytes(a: int, b: int, selector: int) -> None:
    arrays = [np.array([v], np.uint32) for v in (a, b, selector)]
    out = int(elementwise("prmt.b32 %out, %a, %b, %c;", arrays, np.uint32)[0])
    source = (a | b << 32).to_bytes(8, "little")
    want = []
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = source[nibble & 7]
        want.append((255 if byte & 128 else 0) if nibble & 8 else byte)
    assert out.to_bytes(4, "little") == bytes(want)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, WORD), st.integers(0, WORD), st.integers(0, 100))
def test_funnel_shifts(a: int, b: int, amount: int) -> None:
    arrays = [np.array([v], np.uint32) for v in (a, b, amount)]
    both = a | b << 32
    for mode, count in (("clamp", min(amount, 32)), ("wrap", amount & 31)):
        left = elementwise(f"shf.l.{mode}.b32 %out, %a, %b, %c;", arrays, np.uint32)
        right = elementwise(f"shf.r.{mode}.b32 %out, %a, %b, %c;", arrays, np.uint32)
        assert int(left[0]) == (both << count >> 32) & WORD
        assert int(right[0]) == (both >> count) & WORD


def test_carries_chain() -> None:
    a, b = edge_integers(64)
    text = """mov.b64 {%r8,%r9}, %a; mov.b64 {%r10,%r11}, %b;
    add.cc.u32 %r8, %r8, %r10; addc.u32 %r9, %r9, %r11; mov.b64 %out, {%r8,%r9};"""
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(elementwise(text, [a, b], np.uint64), a + b)
        np.testing.assert_array_equal(
            elementwise(text.replace("add.cc", "sub.cc").replace("addc", "subc"), [a, b], np.uint64), a - b
        )


def test_a_difference_carries_out_that_it_did_not_borrow() -> None:
    a, b = edge_integers(32)
    text = "sub.cc.u32 %r8, %a, %b; addc.u32 %out, 0, 0; "
    np.testing.assert_array_equal(elementwise(text, [a, b], np.uint32), a >= b)
    # What isn't .cc leaves the flag alone.
    text += "addc.u32 %r9, %a, %a; subc.u32 %out, 0, 0;"
    np.testing.assert_array_equal(elementwise(text, [a, b], np.uint32), np.where(a >= b, 0, 2**32 - 1))


def test_dot_products_of_bytes() -> None:
    a, b = edge_integers(32)
    out = elementwise("dp4a.s32.u32 %out, %a, %b, 7;", [a, b], np.int32)
    want = (a.view(np.int8).reshape(-1, 4).astype(int) * b.view(np.uint8).reshape(-1, 4)).sum(1) + 7
    np.testing.assert_array_equal(out, want)


def test_twenty_four_bit_products() -> None:
    low = 0xFFFFFF
    check("mul24.lo.u32 %out, %a, %b;", 32, lambda a, b: (a & low) * (b & low))
    check("mul24.hi.u32 %out, %a, %b;", 32, lambda a, b: (a & low) * (b & low) >> 16)
    check("mul24.lo.s32 %out, %a, %b;", 32, lambda a, b: signed(a, 24) * signed(b, 24))


def test_saturation_and_sad() -> None:
    def clamp(value: int) -> int:
        return max(-(2**31), min(2**31 - 1, value))

    check("add.sat.s32 %out, %a, %b;", 32, lambda a, b: clamp(signed(a, 32) + signed(b, 32)))
    check("sub.sat.s32 %out, %a, %b;", 32, lambda a, b: clamp(signed(a, 32) - signed(b, 32)))
    check("sad.s32 %out, %a, %b, 5;", 32, lambda a, b: abs(signed(a, 32) - signed(b, 32)) + 5)
    check("sad.u32 %out, %a, %b, 5;", 32, lambda a, b: abs(a - b) + 5)


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(name: str) -> None:
    operation = {"and": int.__and__, "or": int.__or__, "xor": int.__xor__}[name]
    check(f"{name}.b64 %out, %a, %b;", 64, operation)
    check("not.b32 %out, %a;", 32, lambda a, _: ~a)
    check("cnot.b32 %out, %a;", 32, lambda a, _: int(a == 0))
    check("neg.s32 %out, %a;", 32, lambda a, _: -a)
    check("abs.s32 %out, %a;", 32, lambda a, _: abs(signed(a, 32)))
