"""Kernels compiled by Triton compute what numpy and scipy do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gpudisagg.device.errors import CompileError
from tests.programs.corpus import Program, trimmed
from tests.programs.triton.cases import case
from tests.programs.triton.generate import VARIANTS, generate

FOLDER = Path(__file__).parent
# Run anew even when nothing else is new.
WHOLE = ("add", "elementary", "layer_norm")


@pytest.mark.parametrize("name", list(case))
def test_committed(name: str) -> None:
    case[name].run(Program.read(FOLDER / f"{name}.ptx"), examples=8)


def test_every_kernel_has_a_case_and_a_file() -> None:
    assert set(case) == set(VARIANTS) == {path.stem for path in FOLDER.glob("*.ptx")}


@pytest.mark.timeout(600)
def test_made_anew() -> None:
    """As the installed Triton makes them now, with line numbers and debug sections."""
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    for program in generate():
        committed = FOLDER / f"{program.name}.ptx"
        if trimmed(program.text) != trimmed(committed.read_text()) or program.name in WHOLE:
            case[program.name].run(program, examples=2)


def test_tensor_memory_is_refused_by_name() -> None:
    """Whoever compiles for compute capability 9.0 learns what to do about it."""
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    larger = VARIANTS["matmul_fp16"].constants | {"BLOCK_M": 64, "BLOCK_N": 64}
    variant = dataclasses.replace(VARIANTS["matmul_fp16"], arch=90, constants=larger)
    (program,) = generate({"matmul_sm90": variant})
    with pytest.raises(CompileError, match=r"line \d+: unsupported instruction wgmma.*mma\.sync"):
        _ = program.kernel
