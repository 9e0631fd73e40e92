"""What users install: a wheel that works in an empty environment with numpy and cffi only, for every Python
from 3.10 on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(900)
LEFT_OUT = shutil.ignore_patterns(
    ".*", "build", "dist", "*.so", "*.egg-info", "__pycache__", "kmeans.png", "docs"
)


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources as they are in a fresh clone: nothing built."""
    copy = tmp_path_factory.mktemp("clone") / "gpudisagg"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="session")
def sdist(tree: Path) -> Path:
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "sdist", cwd=tree)
    return next((tree / "sdist").glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of the sdist, so that a file missing there is missed."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # from 3.11.4 on, and soon the default
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    source = next(folder.iterdir())
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            folder / "wheel",
            ".",
        ),
        cwd=source,
    )
    return next((folder / "wheel").glob("*.whl"))


def test_the_sdist_has_all_that_a_build_needs(sdist: Path, tree: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.relative_to(tree).as_posix() for path in (tree / "csrc").rglob("*.[chp]*")}
    needed = {name for name in needed if "__pycache__" not in name}
    needed |= {path.relative_to(tree).as_posix() for path in tree.rglob("gpudisagg/**/*.cu")}
    needed |= {"setup.py", "pyproject.toml", "LICENSE", "Makefile", "CHANGELOG.md"}
    assert needed <= names, needed - names


def test_the_wheel_is_one_for_all_pythons_and_has_what_runs(wheel: Path, tree: Path) -> None:
    assert re.search(r"-cp310-abi3-linux_\w+\.whl$", wheel.name), wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(tree).as_posix()
        for package in ("transport", "gpudisagg")
        for path in (tree / package).rglob("*")
        if path.suffix in (".py", ".pyi", ".cu", ".cuh", ".typed") or path.name == "py.typed"
    }
    expected |= {"transport/_transport.abi3.so", "gpudisagg/server/_engine.abi3.so"}
    assert expected <= names, expected - names
    foreign = {name.split("/")[0] for name in names} - {"transport", "gpudisagg"}
    assert all(name.endswith(".dist-info") for name in foreign), foreign
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_version_is_said_in_one_place(wheel: Path) -> None:
    version: dict[str, str] = {}
    exec((ROOT / "gpudisagg" / "_version.py").read_text(), version)
    assert wheel.name.startswith(f"gpudisagg-{version['__version__']}-")
    everywhere = [
        *(ROOT / "gpudisagg").rglob("*.py"),
        *(ROOT / "transport").rglob("*.py"),
        ROOT / "pyproject.toml",
    ]
    said = [path.name for path in everywhere if f'"{version["__version__"]}"' in path.read_text()]
    assert said == ["_version.py"]
    assert version["__version__"] in (ROOT / "CHANGELOG.md").read_text()


def test_the_base_install_needs_numpy_and_cffi_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(re.split(r"[<>=!~ ]", need)[0] for need in project["dependencies"]) == ["cffi", "numpy"]
    assert {"server", "demo", "cuda", "bench", "dev"} <= set(project["optional-dependencies"])


def has_index(python: Path) -> bool:
    """Whether pip can get packages here."""
    probe = python.parent.parent / "probe"
    command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(probe), "cffi"]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0


@pytest.mark.network
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    if not has_index(python):
        pytest.skip("no package index: numpy and cffi cannot be installed into an empty environment")
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    program = (
        "import gpudisagg, transport\n"
        "a, b = transport.loop()\n"
        "a.send(b'x'); assert b.recv(10) == b'x'\n"
        "assert transport.__file__.startswith(__import__('sys').prefix)\n"
    )
    run(python, "-c", program, cwd=tmp_path, env=clean)
    installed = run(python, "-m", "pip", "list", "--format", "freeze", cwd=tmp_path, env=clean).split()
    names = {line.split("==")[0].lower() for line in installed}
    assert names <= {"gpudisagg", "numpy", "cffi", "pycparser", "pip", "setuptools", "wheel"}, names
    # The server's command line is an extra, and says so.
    command = [str(tmp_path / "venv" / "bin" / "gpudisagg"), "--version"]
    said = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "pip install 'gpudisagg[server]'" in said.stderr
