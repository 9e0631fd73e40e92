"""Every listed form of every instruction is compiled, or refused with its name and line."""

from __future__ import annotations

import functools

import pytest

from gpudisagg.device import CompileError
from gpudisagg.device.cpu.jit import Jit
from gpudisagg.device.cpu.parser import parse
from gpudisagg.device.cpu.translate import translate
from tests.device.isa_forms import concrete, expanded, forms, module

# What is refused, by how the instruction begins. All else in isa_forms.txt is compiled.
REFUSED = (
    "fma.rn.oob",
    "red.async",
    "barrier.cluster",
    "mma.sync.aligned.m8n8k4.row.row.f32.f16",
    "mma.sync.aligned.m8n8k4.row.col.f32.f16",
    "mma.sync.aligned.m8n8k4.col",
)
CHAPTERS = forms()
# The other chapters' forms are run, in `test_models_agree.py`.
TO_CODE = ("data movement", "atomics", "control", "warp and block", "matrices", "special registers")


@functools.cache
def jit() -> Jit:
    return Jit()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_forms(chapter: str) -> None:
    wrong = []
    for line in CHAPTERS[chapter]:
        for form in expanded(line.partition(" @sm_")[0]):
            text = concrete(form)
            refused = text.startswith(REFUSED)
            try:
                translation = translate(parse(module(text)))
                if chapter in TO_CODE:
                    assert jit().compile(translation.loops, translation.warps)
                if refused:
                    wrong.append(f"{text}: compiled")
            except CompileError as error:
                said = str(error)
                if not refused or error.line != 15 or text.split()[0].rstrip(";") not in said:
                    wrong.append(f"{text}: {said}")
    assert not wrong, "\n".join(wrong)
