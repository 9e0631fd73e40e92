"""Who may know whom: the table of docs/architecture.md, enforced on every import and every include."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# layer -> what it may import besides the standard library, numpy and itself. Longest prefix wins.
LAYERS: dict[str, set[str]] = {
    "transport": {"cffi"},
    "gpudisagg": {"transport"},
    "gpudisagg.device": {"llvmlite", "cuda", "cupy", "nvidia"},
    "gpudisagg.server": {"transport", "gpudisagg.device", "click", "tomli"},
    "gpudisagg.cli": {
        *("transport", "gpudisagg", "gpudisagg.server", "gpudisagg.device", "gpudisagg.demo"),
        *("click", "rich", "cuda"),
    },
    "gpudisagg.__main__": {"gpudisagg", "gpudisagg.cli"},
    "gpudisagg.demo": {"gpudisagg", "sklearn", "matplotlib", "rich", "click"},
}
# Words that client and server have in common; they know nobody themselves.
LEAVES = {"gpudisagg._version", "gpudisagg.sizes"}
SUBLAYERS = sorted((name for name in LAYERS if "." in name), key=len, reverse=True)

# Only these touch the compiled modules: above them everything is typed.
CFFI_LINE = {
    "transport._transport": "transport",
    "gpudisagg.server._engine": "gpudisagg.server",
}

C_LAYERS = {"transport": {"transport"}, "engine": {"engine", "transport"}}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("transport", "gpudisagg"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def layer_of(module: str) -> str:
    for layer in SUBLAYERS:
        if module == layer or module.startswith(layer + "."):
            return layer
    return module.split(".")[0]


def imports(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in the file, also inside functions and under
    TYPE_CHECKING.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                # A name imported from a package may be a module of it, of another layer than the package's.
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if layer_of(whole) != layer_of(base) or is_module(whole) else base


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def allowed(importer: str, imported: str) -> bool:
    top = imported.split(".")[0]
    if top in sys.stdlib_module_names or top in ("numpy", "tomllib", "typing_extensions"):
        return True
    if importer in LEAVES:
        return False
    if imported in LEAVES:
        return True
    may = LAYERS[layer_of(importer)]
    if top in ("transport", "gpudisagg"):
        return layer_of(imported) == layer_of(importer) or layer_of(imported) in may
    return top in may


MODULES = list(modules())


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_a_module_imports_only_what_its_layer_may_know(module: str, path: Path) -> None:
    wrong = [f"line {line}: {name}" for line, name in imports(module, path) if not allowed(module, name)]
    assert not wrong, f"{module} (layer {layer_of(module)}) may not import {wrong}"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_only_its_own_package_touches_a_compiled_module(module: str, path: Path) -> None:
    for line, name in imports(module, path):
        for compiled, owner in CFFI_LINE.items():
            if name.startswith(compiled):
                assert layer_of(module) == owner, f"{module}, line {line}: {compiled} is {owner}'s own"


@pytest.mark.parametrize("folder", C_LAYERS)
def test_c_includes_only_what_its_layer_may_know(folder: str) -> None:
    headers = {path.name: path.parent.name for path in (ROOT / "csrc").glob("*/*.h")}
    files = sorted((ROOT / "csrc" / folder).glob("*.[ch]"))
    assert files
    for path in files:
        for name in re.findall(r'^\s*#\s*include\s+["<]([^">]+)[">]', path.read_text(), flags=re.MULTILINE):
            assert headers.get(Path(name).name, folder) in C_LAYERS[folder], f"{path.name} includes {name}"
            assert not re.match(r"(cuda|Python|nvrtc)", name), (
                f"{path.name} includes {name}: loaded at run time only"
            )


def test_memory_ordering_has_one_header() -> None:
    for path in (ROOT / "csrc").glob("*/*.[ch]"):
        if path.name != "order.h":
            code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
            found = re.findall(r"__atomic_\w+|__sync_\w+|\bstdatomic\.h|\bvolatile\b", code)
            # inline assembly is volatile by its keyword, and a sig_atomic_t is so by the C standard's demand
            excused = len(re.findall(r"__asm__ __volatile__|volatile sig_atomic_t", code))
            assert len(found) <= excused, f"{path.name}: {found}: order.h is where memory ordering lives"


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded for `statement`, beyond those it starts with."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement", ["import gpudisagg", "import transport", "import gpudisagg; gpudisagg.connect"]
)
def test_what_a_function_imports_is_light(statement: str) -> None:
    """Cold start is what serverless users pay for: numpy and cffi, and nothing of the server's."""
    loaded = loaded_by(statement)
    heavy = (
        "llvmlite",
        "cuda",
        "cupy",
        "asyncio",
        "nvidia",
        "click",
        "rich",
        "sklearn",
        "matplotlib",
        "setuptools",
    )
    found = {name for name in loaded if name.split(".")[0] in heavy}
    found |= {
        name for name in loaded if name.startswith(("gpudisagg.server", "gpudisagg.device", "gpudisagg.cli"))
    }
    assert not found
    foreign = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    # _cffi_backend and the extension's own name are what cffi's runtime is made of.
    assert foreign <= {"gpudisagg", "transport", "numpy", "cffi", "_cffi_backend", "_transport"}, foreign


def test_every_c_header_that_python_reads_is_the_contract() -> None:
    """The cdef is taken from the headers: so a marked part opens and closes in pairs, in every header."""
    for path in (ROOT / "csrc").glob("*/*.h"):
        marks = re.findall(r"/\* cffi: (begin|end) \*/", path.read_text())
        assert marks == ["begin", "end"] * (len(marks) // 2), path.name
