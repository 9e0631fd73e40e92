"""Kernels compiled by Numba compute what numpy and scipy do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.corpus import Program, trimmed
from tests.programs.numba.cases import case
from tests.programs.numba.generate import generate

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("name", list(case))
def test_committed(name: str) -> None:
    case[name].run(Program.read(FOLDER / f"{name}.ptx"), examples=8)


def test_every_kernel_has_a_case_and_a_file() -> None:
    assert set(case) == {path.stem for path in FOLDER.glob("*.ptx")}


@pytest.mark.timeout(600)
def test_made_anew() -> None:
    """As the installed Numba makes them now."""
    pytest.importorskip("numba_cuda", reason="needs Numba: pip install numba-cuda")
    for program in generate():
        committed = FOLDER / f"{program.name}.ptx"
        if trimmed(program.text) != trimmed(committed.read_text()) or program.name == "scan":
            case[program.name].run(program, examples=2)
