"""Kernels that CuPy generates compute what numpy and scipy do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.corpus import Program, trimmed
from tests.programs.cupy.cases import case
from tests.programs.cupy.generate import OPERATIONS

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("name", list(case))
def test_committed(name: str) -> None:
    case[name].run(Program.read(FOLDER / f"{name}.ptx"), examples=8)


def test_every_kernel_has_a_case_and_a_file() -> None:
    assert set(case) == set(OPERATIONS) == {path.stem for path in FOLDER.glob("*.ptx")}


@pytest.mark.timeout(600)
def test_made_anew(tmp_path: Path) -> None:
    """As the installed CuPy makes them now, each of whose results is NumPy's."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy: pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12")
    command = [sys.executable, "-m", "tests.programs.cupy.generate", str(tmp_path)]
    subprocess.run(command, check=True, timeout=500, cwd=FOLDER.parents[2])
    assert {path.stem for path in tmp_path.iterdir()} == set(OPERATIONS)
    for path in tmp_path.iterdir():
        program = Program.read(path)
        if trimmed(program.text) != trimmed((FOLDER / path.name).read_text()):
            case[program.name].run(program, examples=2)
