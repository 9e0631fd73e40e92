"""Several PTX modules in one image are linked as a device linker would."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpudisagg.device import CompileError
from gpudisagg.device.cpu.parser import parse
from tests.device.elementwise import HEADER
from tests.device.harness import compiler, launch
from tests.device.test_image import entry, fatbin

USER = (
    HEADER
    + """
.extern .func (.param .b32 r) helper (.param .b32 x);
.extern .global .align 4 .u32 shared_value;
.global .align 8 .u64 text = own;
.global .align 4 .u32 own = 5;
.func (.reg .u32 r) twice (.reg .u32 x) { add.u32 r, x, x; ret; }
.weak .func (.reg .u32 r) common_part (.reg .u32 x) { add.u32 r, x, 1; ret; }
.visible .entry use(.param .u64 out) {
  .reg .u32 %r<9>; .reg .u64 %d<4>; .param .b32 a; .param .b32 b;
  ld.param.u64 %d0, [out]; mov.u32 %r0, 7; st.param.b32 [a], %r0;
  call (b), helper, (a); ld.param.b32 %r1, [b]; st.global.u32 [%d0], %r1;
  call (%r2), twice, (%r0); st.global.u32 [%d0+4], %r2;
  mov.u64 %d1, shared_value; ld.global.u32 %r3, [%d1]; st.global.u32 [%d0+8], %r3;
  ld.global.u64 %d2, [text]; ld.global.u32 %r4, [%d2]; st.global.u32 [%d0+12], %r4;
  call (%r5), common_part, (%r0); st.global.u32 [%d0+16], %r5;
  ret;
}
"""
)
MAKER = (
    HEADER
    + """
.visible .global .align 4 .u32 shared_value = 99;
.global .align 4 .u32 own = 6;
.func (.reg .u32 r) twice (.reg .u32 x) { mul.lo.u32 r, x, 3; ret; }
.weak .func (.reg .u32 r) common_part (.reg .u32 x) { add.u32 r, x, 1; ret; }
.visible .func (.param .b32 r) helper (.param .b32 x) {
  .reg .u32 %r<4>; .reg .u64 %d<2>;
  ld.param.b32 %r0, [x]; call (%r1), twice, (%r0); mov.u64 %d0, own; ld.global.u32 %r2, [%d0];
  add.u32 %r1, %r1, %r2; st.param.b32 [r], %r1; ret;
}
.visible .entry other() { ret; }
"""
)


@pytest.mark.parametrize("order", [[USER, MAKER], [MAKER, USER]])
@pytest.mark.parametrize("form", ["text", "elf"])
def test_names_meet_or_stay_apart(order: list[str], form: str) -> None:
    if form == "text":
        image = "\n".join(order).encode()
    else:
        image = b"\x7fELF" + bytes(60)
        for text in order:
            padded = text.encode() + bytes(-len(text) % 8)
            image += fatbin(entry(b"old PTX.", arch=70), entry(padded, arch=80))
        image += bytes(8)
    module = compiler().load(image)
    out = np.zeros(5, np.uint32)
    try:
        launch(module.kernels["use"], 1, 1, out)
        assert set(module.kernels) == {"use", "other"}
        assert module.globals["shared_value"].size == 4
    finally:
        module.close()
    assert out.tolist() == [7 * 3 + 6, 14, 99, 5, 8]


def test_a_visible_definition_replaces_weak_ones() -> None:
    body = ".func (.reg .u32 r) f (.reg .u32 x) {{ mov.u32 r, {}; ret; }}\n"
    kernel = ".visible .entry k(.param .u64 out) { .reg .u32 %r<2>; .reg .u64 %d; ld.param.u64 %d, [out];"
    kernel += " mov.u32 %r0, 0; call (%r1), f, (%r0); st.global.u32 [%d], %r1; ret; }\n"
    parts = [".weak " + body.format(1) + kernel, ".visible " + body.format(2), ".weak " + body.format(3)]
    for order in (parts, parts[::-1], parts[1:] + parts[:1]):
        module = compiler().load("".join(HEADER + part for part in order).encode())
        out = np.zeros(1, np.uint32)
        try:
            launch(module.kernels["k"], 1, 1, out)
        finally:
            module.close()
        assert out[0] == 2


@pytest.mark.parametrize(
    "text", [".visible .global .u32 x = 1;", ".visible .func x() { ret; }", ".visible .entry x() { ret; }"]
)
def test_two_definitions_of_one_name(text: str) -> None:
    with pytest.raises(CompileError, match="x is defined in two of the modules"):
        parse((HEADER + text + "\n") * 2)


def test_what_stays_undefined_is_said() -> None:
    with pytest.raises(CompileError, match="extern"):
        compiler().load((HEADER + ".extern .global .u32 x;\n" + HEADER + ".entry k() { ret; }").encode())


@given(st.lists(st.binary(max_size=40), max_size=3), st.integers(0, 200))
def test_any_row_of_fatbins_ends_in_a_result_or_an_error(tails: list[bytes], size: int) -> None:
    from gpudisagg.device.image import extract_ptx

    image = b"\x7fELF" + b"".join(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, size) + tail for tail in tails)
    with contextlib.suppress(CompileError):
        assert isinstance(extract_ptx(image), bytes)
