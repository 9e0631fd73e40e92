"""Builds the C test programs beside this file, with a sanitizer, against the library's own sources."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OBJECTS = ROOT / "build" / "sanitized"
INCLUDES = [f"-I{ROOT / 'csrc' / folder}" for folder in ("transport", "engine")]
TRANSPORT = sorted((ROOT / "csrc" / "transport").glob("*.c"))
ENGINE = sorted((ROOT / "csrc" / "engine").glob("*.c"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = {
    "thread": ["-fsanitize=thread"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


def _compiler() -> str:
    return os.environ.get("CC") or shutil.which("gcc") or "cc"


@cache
def _common(folder: Path) -> bytes:
    """What the objects of a folder's sources depend on beside those: test programs include one another."""
    included = sorted([*ROOT.glob("csrc/*/*.h"), *(HERE.glob("*.[ch]") if folder == HERE else ())])
    version = subprocess.run([_compiler(), "--version"], capture_output=True, check=True).stdout
    return b"".join([version, *(path.read_bytes() for path in included)])


def _object(source: Path, sanitizer: str) -> Path:
    """The source compiled; once for all programs, and for as long as nothing of it changes."""
    flags = [*FLAGS, *SANITIZERS[sanitizer]]
    key = hashlib.sha256(
        b"\0".join([_common(source.parent), repr(flags).encode(), bytes(source), source.read_bytes()])
    )
    made = OBJECTS / sanitizer / f"{source.stem}-{key.hexdigest()[:20]}.o"
    if made.exists():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        part = Path(folder) / made.name
        subprocess.run([_compiler(), *flags, *INCLUDES, "-c", str(source), "-o", str(part)], check=True)
        part.replace(made)  # whole, as others may be looking for it
    return made


def build(program: str, sanitizer: str, sources: list[Path], into: Path) -> Path:
    """The binary of tests/csrc/<program>.c with `sources`, under `sanitizer` ("thread" or "address")."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _object(source, sanitizer), [HERE / f"{program}.c", *sources]))
    binary = into / f"{program}-{sanitizer}"
    command = [_compiler(), *SANITIZERS[sanitizer], *map(str, objects)]
    subprocess.run([*command, "-lpthread", "-ldl", "-lm", "-o", str(binary)], check=True)
    return binary


def run(
    binary: Path, *arguments: str, stdin: bytes = b"", timeout: float = 300
) -> subprocess.CompletedProcess[bytes]:
    """Runs a sanitized program; a report of the sanitizer is a failure (its output is in the assertion)."""
    environment = dict(os.environ, TSAN_OPTIONS="halt_on_error=1 exitcode=66", ASAN_OPTIONS="detect_leaks=1")
    command = [str(binary), *arguments]
    if "thread" in binary.name and shutil.which("setarch"):
        command = [
            "setarch",
            platform.machine(),
            "-R",
            *command,
        ]  # older runtimes dislike high-entropy layouts
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=timeout, env=environment, check=False
    )
    assert done.returncode == 0, (
        f"{binary.name} ended with {done.returncode}\n{done.stderr.decode(errors='replace')}"
    )
    return done
