"""Video instructions, each listed form, against the same written out with Python's integers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.device.harness import compiler, launch
from tests.device.isa_forms import expanded, forms

COUNT, TOGETHER = 512, 12  # operands for each form, forms in a kernel
FORMS = [form for line in forms()["video"] for form in expanded(line)]
INSTRUCTION = re.compile(
    r"(\w+)\.([\w.]+) %r0(?:\.(\w+))?, (-?)%r1(?:\.(\w+))?, (-?)%r2(?:\.(\w+))?(?:, (-?)%r3)?;"
)
EDGES = [0, 1, 2, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         0x80018000, 0x7FFF7FFF, 0x80808080, 0x7F7F7F7F, 0x01FF00FE]  # fmt: skip
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "vadd": lambda a, b: a + b,
    "vsub": lambda a, b: a - b,
    "vabsdiff": lambda a, b: abs(a - b),
    "vavrg": lambda a, b: (a + b + (a + b >= 0)) >> 1,
    "vmin": min,
    "vmax": max,
}
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def element(word: int, width: int, index: int, kind: str) -> int:
    value = word >> (width * index) & ((1 << width) - 1)
    return signed(value, width) if kind == "s32" else value


def part(word: int, name: str | None, kind: str) -> int:
    width = {"b": 8, "h": 16}[name[0]] if name else 32
    return element(word, width, int(name[1]) if name else 0, kind)


def clamp(value: int, width: int, kind: str) -> int:
    least, most = (-(1 << width - 1), (1 << width - 1) - 1) if kind == "s32" else (0, (1 << width) - 1)
    return max(least, min(value, most))


def put(word: int, width: int, index: int, value: int) -> int:
    mask = ((1 << width) - 1) << (width * index)
    return word & ~mask | value << (width * index) & mask


def expected(form: str, a: int, b: int, c: int) -> int:
    """What the instruction gives, as the PTX manual's pseudocode has it."""
    match = INSTRUCTION.fullmatch(form)
    assert match, form
    opcode, modifiers, d_part, minus_a, a_part, minus_b, b_part, minus_c = match.groups()
    flags = modifiers.split(".")
    kinds = [flag for flag in flags if flag in ("u32", "s32")]
    if opcode[-1] in "24":
        return packed(opcode, flags, kinds, (d_part, a_part, b_part), a, b, c)
    kind_a, kind_b = kinds[-2:]
    kind = kinds[0] if len(kinds) == 3 else "u32"
    x, y = part(a, a_part, kind_a), part(b, b_part, kind_b)
    width = {"b": 8, "h": 16}[d_part[0]] if d_part else 32
    if opcode == "vmad":
        is_signed = "s32" in (kind_a, kind_b) or minus_a != minus_b or bool(minus_c)
        z = signed(c, 32) if is_signed else c
        total = (-x * y if minus_a != minus_b else x * y) + (-z if minus_c else z) + ("po" in flags)
        total >>= 7 if "shr7" in flags else 15 if "shr15" in flags else 0
        return (clamp(total, 32, "s32" if is_signed else "u32") if "sat" in flags else total) & 0xFFFFFFFF
    if opcode in ("vshl", "vshr"):
        y = y & 31 if "wrap" in flags else min(y, 32)
        value = x << y if opcode == "vshl" else x >> y
    elif opcode == "vset":
        value = int(COMPARISONS[next(f for f in flags if f in COMPARISONS)](x, y))
    else:
        value = OPERATIONS[opcode](x, y)
    if "sat" in flags:
        value = clamp(value, width, kind)
    z = signed(c, 32) if kind == "s32" else c
    if d_part:
        value = put(c, width, int(d_part[1]), value)
    elif "add" in flags:
        value += z
    elif "min" in flags or "max" in flags:
        value = min(value, z) if "min" in flags else max(value, z)
    return value & 0xFFFFFFFF


def packed(
    opcode: str, flags: list[str], kinds: list[str], parts: tuple[str | None, ...], a: int, b: int, c: int
) -> int:
    count = int(opcode[-1])
    width = 32 // count
    both = a | b << 32
    digits = [[int(d) for d in reversed(p[1:])] if p else None for p in parts]
    written = digits[0] or list(range(count))
    rows = [digits[1] or list(range(count)), digits[2] or list(range(count, 2 * count))]
    total = c
    for index in written:
        x, y = (element(both, width, row[index], kind) for row, kind in zip(rows, kinds[-2:], strict=True))
        if opcode.startswith("vset"):
            value = int(COMPARISONS[next(f for f in flags if f in COMPARISONS)](x, y))
        else:
            value = OPERATIONS[opcode[:-1]](x, y)
            value = clamp(value, width, kinds[0]) if "sat" in flags else value
        total = total + value if "add" in flags else put(total, width, index, value)
    return total & 0xFFFFFFFF


def kernel(forms: list[str], name: str, extra: str) -> str:
    """Each form on the same operands; its results are COUNT words from the one before's."""
    body = "".join(f"{form}\nst.global.u32 [%d3+{4 * COUNT * i}], %r0;\n" for i, form in enumerate(forms))
    return f"""
.visible .entry {name}(.param .u64 px, .param .u64 py, .param .u64 pz, .param .u64 pd)
{{
.reg .b32 %r<8>; .reg .b64 %d<8>; .reg .pred %p<2>;
ld.param.u64 %d0, [px]; ld.param.u64 %d1, [py]; ld.param.u64 %d2, [pz]; ld.param.u64 %d3, [pd];
mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ntid.x; mov.u32 %r6, %tid.x; mad.lo.u32 %r4, %r4, %r5, %r6;
mul.wide.u32 %d4, %r4, 4;
add.u64 %d0, %d0, %d4; add.u64 %d1, %d1, %d4; add.u64 %d2, %d2, %d4; add.u64 %d3, %d3, %d4;
ld.global.u32 %r1, [%d0]; ld.global.u32 %r2, [%d1]; ld.global.u32 %r3, [%d2];
{extra}
{body}ret;
}}
"""


@pytest.mark.parametrize(("extra", "step"), [("", 1), ("bar.warp.sync -1;", 4)], ids=["threads", "lockstep"])
def test_each_form(extra: str, step: int) -> None:
    rng = np.random.default_rng(1)
    edges = np.array(EDGES, np.uint32)
    pairs = np.stack(np.meshgrid(edges, edges)).reshape(2, -1)
    x, y = (np.concatenate([p, rng.integers(0, 2**32, COUNT - p.size, np.uint32)]) for p in pairs)
    z = rng.integers(0, 2**32, COUNT, np.uint32)
    z[: edges.size] = edges
    batches = [FORMS[::step][i : i + TOGETHER] for i in range(0, len(FORMS[::step]), TOGETHER)]
    head = ".version 7.0\n.target sm_80\n.address_size 64\n"
    module = compiler().load(
        (head + "".join(kernel(b, f"k{i}", extra) for i, b in enumerate(batches))).encode()
    )
    wrong = []
    for i, batch in enumerate(batches):
        out = np.zeros((len(batch), COUNT), np.uint32)
        launch(module.kernels[f"k{i}"], 2, COUNT // 2, x, y, z, out)
        for form, got in zip(batch, out, strict=True):
            right = [expected(form, int(a), int(b), int(c)) for a, b, c in zip(x, y, z, strict=True)]
            if got.tolist() != right:
                at = next(j for j in range(COUNT) if int(got[j]) != right[j])
                wrong.append(
                    f"{form} of {x[at]:#x}, {y[at]:#x}, {z[at]:#x}: {got[at]:#x}, not {right[at]:#x}"
                )
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize(
    "form",
    [
        "vadd.u32.u32.u32 %r0, %r1.b4, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.h2, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.x, %r2;",
        "vadd.u32.u32.u32 %r0.b0, %r1, %r2;",
        "vadd.u32.u32.u32.add %r0.b0, %r1, %r2, %r3;",
        "vadd.f32.u32.u32 %r0, %r1, %r2;",
        "vadd2.u32.u32.u32 %r0, %r1.h1, %r2, %r3;",
        "vadd2.u32.u32.u32 %r0, %r1.b10, %r2, %r3;",
        "vadd4.u32.u32.u32 %r0.b4, %r1, %r2, %r3;",
        "vadd4.u32.u32.u32 %r0, %r1.b01234, %r2, %r3;",
        "vmad.u32.u32.u32.po %r0, -%r1, %r2, %r3;",
        "vshl.u32.u32.u32 %r0, %r1, %r2;",
        "vset.u32.u32 %r0, %r1, %r2;",
    ],
)
def test_what_is_no_form_is_refused(form: str) -> None:
    from gpudisagg.device import CompileError

    head = ".version 7.0\n.target sm_80\n.address_size 64\n"
    with pytest.raises(CompileError):
        compiler().load((head + kernel([form], "k", "")).encode())
