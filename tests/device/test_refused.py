"""What this device has not is refused at load, by instruction and line, with what to do instead."""

from __future__ import annotations

import pytest

from gpudisagg.device import CompileError
from gpudisagg.device.cpu.parser import parse
from gpudisagg.device.cpu.translate import translate
from tests.device.isa_forms import module

LINE = 15  # of the instruction, in `module`
TEXTURE = "textures and surfaces aren't supported: read the array through a pointer"
CASES = {
    "tex.2d.v4.f32.f32 {%f0,%f1,%f2,%f3}, [%d0, {%f4,%f5}];": TEXTURE,
    "tld4.r.2d.v4.f32.f32 {%f0,%f1,%f2,%f3}, [%d0, {%f4,%f5}];": TEXTURE,
    "suld.b.2d.b32.trap {%r0}, [%d0, {%r1,%r2}];": TEXTURE,
    "sust.b.1d.b32.trap [%d0, {%r1}], {%r0};": TEXTURE,
    "txq.width.b32 %r0, [%d0];": TEXTURE,
    "wgmma.fence.sync.aligned;": "use mma.sync",
    "tcgen05.ld.sync.aligned.32x32b.x1.b32 %r0, [%r1];": "use mma.sync",
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
    "[sh], [%d0, {%r0,%r1}], [%d1];": "use cp.async",
    "cp.async.bulk.commit_group;": "use cp.async",
    "tensormap.replace.tile.global_address.global.b1024.b64 [%d0], %d1;": "copy with cp.async",
    "mapa.u64 %d0, %d1, %r0;": "in a cooperative launch",
    "barrier.cluster.arrive;": "in a cooperative launch",
    "multimem.ld_reduce.relaxed.sys.global.add.f32 %f0, [%d0];": "use the plain instruction",
    "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3,%f4,%f5,%f6,%f7},{%r0,%r1},{%r2,%r3},"
    "{%f8,%f9,%f10,%f11,%f12,%f13,%f14,%f15};": "use m16n8k8 or m16n8k16",
    "frobnicate.u32 %r0;": "",
}


@pytest.mark.parametrize("text", CASES)
def test_what_is_not_there_is_named(text: str) -> None:
    with pytest.raises(CompileError) as caught:
        translate(parse(module(text)))
    said = str(caught.value)
    assert caught.value.line == LINE
    assert said.startswith(f"line {LINE}: unsupported instruction {text.split()[0].rstrip(';')}")
    assert said.endswith(CASES[text])
    assert CASES[text] == "" or ("needs" in said or "need" in said or "supported" in said or "is for" in said)


def test_register_hints_of_warp_specialised_code_mean_nothing() -> None:
    assert translate(parse(module("setmaxnreg.inc.sync.aligned.u32 64;"))).kernels
