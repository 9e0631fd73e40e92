"""Every computing instruction gives the same in a loop over threads, in diverging lanes and in coroutines."""

from __future__ import annotations

import numpy as np
import pytest

from gpudisagg.device.cpu.models import MAX_UNFORCED, gains, lockstep_plan
from gpudisagg.device.cpu.parser import parse
from tests.device.elementwise import HEADER, Array
from tests.device.harness import compiler, launch
from tests.device.isa_forms import concrete, expanded, forms

CHAPTERS = ("integer", "extended precision", "floating point", "half precision", "comparison",
            "logic and shift", "conversion")  # fmt: skip
# An approximation is what its model's instructions make of it, and random bits give NaNs of any payload here.
UNLIKE = ("fma.rn.oob",)
AT_ONCE = 30
WORDS = 8
RESULT = 40  # bytes for each instruction and thread


def kernel(instructions: list[str], model: str) -> bytes:
    lines = [HEADER, ".func nothing() { ret; }", ".visible .entry k(.param .u64 in, .param .u64 out) {"]
    lines += [".reg .pred %p<8>; .reg .b16 %h<9>; .reg .b32 %r<12>, %t; .reg .b64 %d<9>, %w<3>;"]
    lines += [".reg .f32 %f<9>; .reg .f64 %e<9>; mov.u32 %t, %tid.x; ld.param.u64 %w0, [in];"]
    lines += [f"ld.param.u64 %w1, [out]; mad.wide.u32 %w0, %t, {4 * WORDS}, %w0;"]
    lines += [f"mad.wide.u32 %w1, %t, {RESULT * len(instructions)}, %w1;"]
    lines += [f"ld.global.u32 %r{i + 1}, [%w0+{4 * i}]; cvt.u16.u32 %h{i + 1}, %r{i + 1};" for i in range(7)]
    lines += [f"cvt.rn.f32.s32 %f{i}, %r{i}; mul.f32 %f{i}, %f{i}, 0f36000000;" for i in range(1, 8)]
    lines += [f"cvt.rn.f64.s32 %e{i}, %r{i}; mul.f64 %e{i}, %e{i}, 0d3EB1000000000001;" for i in range(1, 8)]
    lines += [f"mov.b64 %d{i}, {{%r{i}, %r{8 - i}}};" for i in range(1, 8)]
    lines += ["setp.lt.s32 %p1, %r1, %r2; setp.lt.u32 %p2, %r3, %r4; setp.gt.u32 %p3, %r5, %r6;"]
    lines += ["shr.u32 %r8, %r7, 3; and.b32 %r9, %r8, 1; setp.eq.u32 %p7, %r9, 0;"]
    if model == "loop":  # so long that it isn't worth compiling for lanes
        lines += ["mov.u32 %r11, 0;"] * MAX_UNFORCED
    if model == "coroutines":
        lines += ["call nothing;"]
    if model != "loop":
        lines += ["activemask.b32 %r9;"]
    for number, instruction in enumerate(instructions):
        at = number * RESULT
        lines += [f"@%p7 bra S{number}; {instruction} S{number}:"]
        lines += [f"st.global.b64 [%w1+{at}], %d0; st.global.f64 [%w1+{at + 8}], %e0;"]
        lines += [f"st.global.b32 [%w1+{at + 16}], %r0; st.global.f32 [%w1+{at + 20}], %f0;"]
        lines += [f"st.global.b16 [%w1+{at + 24}], %h0; selp.u32 %r10, 1, 0, %p0;"]
        lines += [f"selp.u32 %r11, 2, 0, %p1; or.b32 %r10, %r10, %r11; st.global.u32 [%w1+{at + 28}], %r10;"]
    return "\n".join([*lines, "ret; }"]).encode()


def run(instructions: list[str], model: str, inputs: Array) -> Array:
    text = kernel(instructions, model)
    plan = lockstep_plan(parse(text).functions["k"])
    assert (plan is not None) == (model != "coroutines")
    assert model != "loop" or (plan is not None and not gains(plan))
    out = np.zeros((len(inputs), len(instructions), RESULT), np.uint8)
    module = compiler().load(text)
    try:
        launch(module.kernels["k"], 1, len(inputs), inputs, out)
    finally:
        module.close()
    return out


def instructions(chapter: str) -> list[str]:
    found = [concrete(form) for line in forms()[chapter] for form in expanded(line.partition(" @sm_")[0])]
    return [text for text in found if not text.startswith(UNLIKE)]


PIECES = [
    pytest.param(instructions(chapter)[start : start + AT_ONCE], id=f"{chapter}-{start}")
    for chapter in CHAPTERS
    for start in range(0, len(instructions(chapter)), AT_ONCE)
]


@pytest.mark.parametrize("some", PIECES)
def test_models_agree(some: list[str]) -> None:
    rng = np.random.default_rng(len(some))
    # Both halves of a word are moderate as f16 and as bf16.
    halves = rng.integers(0x3400, 0x4400, (75, WORDS, 2)) | rng.integers(0, 2, (75, WORDS, 2)) << 15
    inputs = (halves[..., 0] | halves[..., 1] << 16).astype(np.uint32)
    inputs[::5, 4:6] = rng.integers(0, 40, inputs[::5, 4:6].shape)  # small numbers: positions and lengths
    inputs[::2, 6] ^= 8
    wanted = run(some, "loop", inputs)
    for model in ("lockstep", "coroutines"):
        got = run(some, model, inputs)
        for number, text in enumerate(some):
            np.testing.assert_array_equal(got[:, number], wanted[:, number], err_msg=f"{model}: {text}")
