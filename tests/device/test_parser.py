"""The parser gives a module or a CompileError, for any bytes at all."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpudisagg.device import CompileError, nvrtc
from gpudisagg.device.cpu import ast
from gpudisagg.device.cpu.parser import parse
from gpudisagg.device.cpu.sources import SourceLines
from gpudisagg.device.cpu.translate import translate
from tests.device.elementwise import HEADER
from tests.device.harness import KERNELS

SAMPLE = (
    HEADER
    + """
.extern .shared .align 16 .b8 dynamic[];
.const .align 4 .b32 table[4] = {1, -2, 0x3, 0f3F800000};
.global .u64 link = generic(table)+4;
.func (.param .b32 r) twice(.param .b32 x) {
  .reg .b32 %r<2>; ld.param.b32 %r1, [x]; add.s32 %r1, %r1, %r1; st.param.b32 [r], %r1; ret;
}
.visible .entry k(.param .u64 .ptr .global .align 4 p, .param .align 8 .b8 s[12]) .maxntid 128, 2, 1 {
  .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<4>; .local .align 8 .b8 buf[16];
  ld.param.u64 %rd1, [p];
  { .reg .b32 %t; mov.u32 %t, %tid.x; mov.b32 %r1, %t; }
  { .reg .b64 %t; cvt.u64.u32 %t, %r1; mov.u64 %rd2, %t; }
  setp.ne.s32 %p1|%p2, %r1, 0;
again:
  @!%p1 bra $done;
  { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), twice, (a); ld.param.b32 %r2, [b]; }
  ld.param.v2.u32 {%r3, _}, [s+4];
  shfl.sync.down.b32 %r4|%p2, %r2, 1, 31, -1;
  atom.global.add.u32 %r5, [%rd1+4], %r4;
  bar.sync 0;
$done: ret;
}
"""
)


def test_a_module() -> None:
    module = parse(SAMPLE)
    assert module.version == (8, 0) and module.target == "sm_80"
    kernel = module.functions["k"]
    assert [(p.name, p.offset, p.size) for p in kernel.params] == [("p", 0, 8), ("s", 8, 12)]
    assert kernel.entry and kernel.max_threads == 256
    assert module.variables["dynamic"].count is None
    assert module.variables["table"].initializers[1] == ast.Integer(-2)
    assert module.variables["link"].initializers == (ast.Symbol("table", 4, generic=True),)


def test_inner_scopes_may_reuse_names() -> None:
    body = parse(SAMPLE).functions["k"].body
    assert body is not None
    assert (body.registers["%t"].name, body.registers["%t@2"].name) == ("b32", "b64")


def test_operands() -> None:
    body = parse(SAMPLE).functions["k"].body
    assert body is not None
    found = {s.text: s for s in body.statements if isinstance(s, ast.Instruction)}
    assert found["bra"].guard == ast.Guard(ast.Register("%p1", negated=True))
    assert found["setp.ne.s32"].operands[0] == ast.Pair(ast.Register("%p1"), ast.Register("%p2"))
    assert found["atom.global.add.u32"].operands[1] == ast.Address(ast.Register("%rd1"), 4)
    assert found["ld.param.v2.u32"].operands[0] == ast.Vector((ast.Register("%r3"), ast.Sink()))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (".entry k() {\n mov.u32 %r1\n}", 6),
        (".entry k() {", 4),
        (".bogus 3;", 4),
        ("\n.entry k(.param .b32) {}", 5),
        (".global .u32 x[99999999999];", 4),
        (".entry k() { .reg .b32 %r<999999999>; }", 4),
        (".entry k() { l: l: ret; }", 4),
        (".address_size 32", 4),
    ],
)
def test_errors_have_lines(text: str, line: int) -> None:
    with pytest.raises(CompileError) as caught:
        parse(HEADER + text)
    assert caught.value.line == line


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    for text in (
        ".entry k() " + "{" * 5000,
        ".global .u32 x = " + "(" * 5000,
        ".global .u32 x = " + "-" * 5000,
    ):
        with pytest.raises(CompileError):
            parse(HEADER + text)


def settled(source: bytes) -> None:
    """Parsing and lowering end in a result or a CompileError; anything else is a bug."""
    with contextlib.suppress(CompileError):
        module = parse(source)
        translate(module)
        translate(module, SourceLines(source.decode(), "x.cu"))


@given(st.binary(max_size=200))
def test_any_bytes(source: bytes) -> None:
    settled(source)


@given(st.lists(st.sampled_from([t for t in SAMPLE.split() if t]), max_size=60))
def test_any_words(words: list[str]) -> None:
    settled((HEADER + " ".join(words)).encode())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_modules(data: st.DataObject) -> None:
    source = bytearray(SAMPLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source) - 1))
        kind = data.draw(st.sampled_from(["drop", "replace", "swap", "repeat"]))
        if kind == "drop":
            del source[at : at + data.draw(st.integers(1, 12))]
        elif kind == "replace":
            source[at] = data.draw(st.integers(0, 255))
        elif kind == "swap":
            other = data.draw(st.integers(0, len(source) - 1))
            source[at], source[other] = source[other], source[at]
        else:
            source[at:at] = source[at : at + 20]
    settled(bytes(source))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_instructions_of_real_kernels(data: st.DataObject) -> None:
    lines = real_ptx().splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(6, len(lines) - 1))
        words = lines[at].split(" ")
        other = lines[data.draw(st.integers(6, len(lines) - 1))].split(" ")
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from(other))
        lines[at] = " ".join(words)
    settled("\n".join(lines).encode())


_REAL: list[str] = []


def real_ptx() -> str:
    if not _REAL:
        _REAL.append(nvrtc.compile_to_ptx((KERNELS / "misc.cu").read_bytes()).decode())
    return _REAL[0]


def programs() -> list[str]:
    """Small modules of other compilers, to be mutated."""
    folder = KERNELS.parent.parent / "programs"
    texts = [path.read_text() for path in sorted(folder.rglob("*.ptx"))]
    return [text for text in texts if len(text) < 8000]


PARTS = ["u32", "f32", "s64", "b16", "f16x2", "v2", "v4", "pred", "shared", "param", "cc", "rz", "wide", "x4"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_programs(data: st.DataObject) -> None:
    if not _PROGRAMS:
        _PROGRAMS.extend([SAMPLE, *programs()])
    lines = data.draw(st.sampled_from(_PROGRAMS)).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(3, len(lines) - 1))
        kind = data.draw(st.sampled_from(["drop", "repeat", "operand", "part", "number"]))
        if kind == "drop":
            lines[at] = ""
        elif kind == "repeat":
            lines.insert(at, lines[data.draw(st.integers(3, len(lines) - 1))])
        elif kind == "operand":
            words = lines[at].split(",")
            del words[data.draw(st.integers(0, len(words) - 1))]
            lines[at] = ",".join(words) + ";"
        elif kind == "part":
            words = lines[at].split(".")
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from(PARTS))
            lines[at] = ".".join(words)
        else:
            number = data.draw(st.sampled_from([0, 31, 33, 255, 2**31, 2**32, 2**63, 2**64, 10**30]))
            lines[at] = re.sub(r"\d+", str(number), lines[at], count=1)
    settled("\n".join(lines).encode())


_PROGRAMS: list[str] = []


@pytest.mark.parametrize("statement", ["@%p1 bra;", "bra;", "add.s64 %rd1, %rd1;", "add.s64 %rd1;"])
def test_missing_operands(statement: str) -> None:
    source = SAMPLE.replace("again:", f"again: {statement}")
    with pytest.raises(CompileError):
        translate(parse(source))
