"""What can't be compiled is refused at load, with the instruction and the line."""

from __future__ import annotations

import pytest

from gpudisagg.device import CompileError
from tests.device.elementwise import HEADER
from tests.device.harness import compiler


def kernel(body: str) -> bytes:
    return (
        HEADER
        + ".entry k(.param .u64 p) {\n.reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .pred %p<3>;\n"
        + body
        + "\n}"
    ).encode()


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1}, [%rd1];", "fragment of 1"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f1};", "mma.sync"),
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned: tensor memory"),
        ("vadd4.u32.u32.u32 %r1, %r2.h10, %r3, %r4;", "no such part of a register: .h10"),
        ("barrier.cluster.arrive;", "barrier.cluster.arrive: clusters"),
        ("sust.b.2d.b32.trap [p, {%r1, %r2}], {%r3};", "sust.b.2d.b32.trap: textures"),
        ("frobnicate.u32 %r1, %r2;", "frobnicate.u32"),
        ("add.s32.weird %r1, %r2, %r3;", ".weird"),
        ("mov.u32 %r1, %r77;", "%r77"),
        ("mov.u32 %r1, nothing;", "nothing"),
        ("bra nowhere;", "nowhere"),
        ("ld.param.u64 %rd1, [p+8];", "past the parameters"),
        ("call missing;", "missing"),
        ("add.s32 %r1, %r2;", "2 operands"),
        ("setp.lt.s32 %r1, %r2, 3;", "predicate"),
        ("tex.2d.v4.f32.f32 {%f1,%f2,%f3,%f4}, [p, {%f1,%f2}];", "tex.2d.v4.f32.f32: textures"),
    ],
)
def test_instructions(body: str, names: str) -> None:
    with pytest.raises(CompileError) as caught:
        compiler().load(kernel(body))
    assert names in str(caught.value)
    assert caught.value.line == 6


def test_cuda_errors_carry_the_log() -> None:
    with pytest.raises(CompileError) as caught:
        compiler().load(b'extern "C" __global__ void k() { undeclared = 1; }', name="broken")
    assert "undeclared" in caught.value.log and "broken.cu" in caught.value.log


def test_machine_code_for_gpus_is_refused_with_advice() -> None:
    with pytest.raises(CompileError, match="SASS"):
        compiler().load(b"\x7fELF" + bytes(100))


def test_waiting_functions_cant_recurse() -> None:
    text = HEADER + ".func f() { bar.sync 0; call f; ret; } .entry k() { call f; ret; }"
    with pytest.raises(CompileError, match="recursive"):
        compiler().load(text.encode())


def test_undefined_extern_variables() -> None:
    with pytest.raises(CompileError, match="extern"):
        compiler().load((HEADER + ".extern .global .u32 x;").encode())
