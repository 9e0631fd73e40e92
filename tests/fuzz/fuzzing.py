"""Builds the fuzz targets beside this file and runs them: with clang's libFuzzer, or with gcc and driver.c.

A target is one line in TARGETS, a file target_<name>.c and a folder corpus/<name>.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"

_TRANSPORT = ROOT / "csrc" / "transport"
_ENGINE = ROOT / "csrc" / "engine"
_INCLUDES = [f"-I{folder}" for folder in (_TRANSPORT, _ENGINE, ROOT / "tests" / "csrc", HERE)]
_FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-U_FORTIFY_SOURCE",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-Wall",
    "-Wextra",
]
_CHECKED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_LIBRARIES = ["-lpthread", "-ldl", "-lm"]


@dataclass(frozen=True)
class Target:
    """What is fuzzed: its sources, which alone count as coverage, and how long an input may be."""

    sources: tuple[Path, ...]
    max_len: int
    link: tuple[str, ...] = ()


def _all(*folders: Path) -> tuple[Path, ...]:
    return tuple(path for folder in folders for path in sorted(folder.glob("*.c")))


TARGETS = {
    "wire": Target((_TRANSPORT / "wire.c",), max_len=600),
    "engine": Target(
        _all(_TRANSPORT, _ENGINE),
        max_len=600,
        link=("-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup",),
    ),
    "stream": Target(_all(_TRANSPORT), max_len=600, link=("-Wl,--wrap=poll,--wrap=ppoll",)),
}


def _compiler(name: str) -> str | None:
    if name == "gcc":
        return os.environ.get("CC") or shutil.which("gcc")
    return shutil.which("clang")


def missing(toolchain: str) -> str | None:
    """Why this toolchain ("gcc" or "clang") cannot fuzz here, in words; None: it can."""
    compiler = _compiler(toolchain)
    if compiler is None:
        return f"{toolchain} is not installed"
    if toolchain == "gcc":
        return None
    program = (
        b"#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *d, size_t n) { return d[n - n] & 0; }"
    )
    command = [compiler, "-fsanitize=fuzzer,address", "-x", "c", "-", "-o", os.devnull]
    done = subprocess.run(command, input=program, capture_output=True, check=False)
    return None if done.returncode == 0 else "clang comes without libFuzzer (its package is compiler-rt)"


def build(name: str, toolchain: str, into: Path) -> Path:
    """The fuzzer of one of TARGETS, in the folder `into`."""
    target = TARGETS[name]
    return build_file(HERE / f"target_{name}.c", target.sources, toolchain, into, target.link)


def build_file(
    target: Path, sources: tuple[Path, ...], toolchain: str, into: Path, link: tuple[str, ...] = ()
) -> Path:
    """The fuzzer of the file `target` for `sources`, in the folder `into`."""
    compiler = _compiler(toolchain)
    assert compiler is not None
    into.mkdir(parents=True, exist_ok=True)
    binary = into / f"{target.stem}-{toolchain}"
    if toolchain == "clang":
        flags = [*_FLAGS, *_INCLUDES, "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
        objects = _compile(compiler, into, dict.fromkeys((target, *sources), flags), toolchain)
        _run([compiler, *flags, *objects, *link, *_LIBRARIES, "-o", str(binary)])
        return binary
    plain = [*_FLAGS, *_INCLUDES, "-Werror"]
    traced = [*plain, *_CHECKED, "-fsanitize-coverage=trace-pc,trace-cmp"]
    flags_of = dict.fromkeys(sources, traced) | {
        target: [*plain, *_CHECKED],
        HERE / "driver.c": [*plain, "-O2"],
    }
    objects = _compile(compiler, into, flags_of, toolchain)
    _run([compiler, *_CHECKED, *objects, *link, *_LIBRARIES, "-o", str(binary)])
    return binary


def _compile(compiler: str, into: Path, flags_of: dict[Path, list[str]], toolchain: str) -> list[str]:
    objects = {path: into / f"{path.parent.name}-{path.stem}-{toolchain}.o" for path in flags_of}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = [
            [compiler, *flags, "-c", str(path), "-o", str(objects[path])] for path, flags in flags_of.items()
        ]
        list(pool.map(_run, commands))
    return [str(path) for path in objects.values()]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def environment() -> dict[str, str]:
    return dict(os.environ, ASAN_OPTIONS="detect_leaks=1")


def fuzz(
    binary: Path, found: Path, seeds: Path | None, seconds: float, seed: int, max_len: int, timeout: int = 60
) -> subprocess.CompletedProcess[str]:
    """Fuzzes for `seconds`, from the inputs in `found` and `seeds`; what reaches something new is added to
    `found`, what breaks the target lies beside it. `seed`: of all choices; 0: of this run alone.
    """
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed or int.from_bytes(os.urandom(3), 'little') + 1}",
        f"-max_len={max_len}",
        f"-timeout={timeout}",
        f"-artifact_prefix={found.parent}/",
    ]
    folders = [str(found)] + ([str(seeds)] if seeds else [])
    return _play([str(binary), *options, *folders], seconds + 4 * timeout)


def replay(binary: Path, inputs: list[Path], timeout: int = 60) -> subprocess.CompletedProcess[str]:
    """Runs these inputs, once each."""
    return _play([str(binary), f"-timeout={timeout}", *map(str, inputs)], 300)


def merge(binary: Path, into: Path, sources: list[Path]) -> subprocess.CompletedProcess[str]:
    """Puts the fewest and shortest inputs of `sources` that reach all that they reach into a new folder."""
    into.mkdir(parents=True)
    return _play([str(binary), "-merge=1", str(into), *map(str, sources)], 600)


def _play(command: list[str], patience: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=patience,
        check=False,
        env=environment(),
        cwd=Path(command[0]).parent,
    )


def explain(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """What went wrong, and the inputs that did it, to be put into a test."""
    words = [f"{done.args[0]} ended with {done.returncode}", done.stderr[-6000:]]
    for kind in ("crash", "timeout", "leak", "oom"):
        for path in sorted(folder.glob(f"{kind}-*")):
            words.append(f"{path}: bytes.fromhex('{path.read_bytes().hex()}')")
    return "\n".join(words)
