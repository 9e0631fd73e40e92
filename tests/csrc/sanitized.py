"""Builds the C test programs beside this file, with a sanitizer, against the library's own sources."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRANSPORT = sorted((ROOT / "csrc" / "transport").glob("*.c"))
ENGINE = sorted((ROOT / "csrc" / "engine").glob("*.c"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = {
    "thread": ["-fsanitize=thread"],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


def build(program: str, sanitizer: str, sources: list[Path], into: Path) -> Path:
    """The binary of tests/csrc/<program>.c with `sources`, under `sanitizer` ("thread" or "address")."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
    source = Path(__file__).parent / f"{program}.c"
    name = hashlib.sha1(str(source).encode()).hexdigest()[:8]
    binary = into / f"{program}-{sanitizer}-{name}"
    includes = [f"-I{ROOT / 'csrc' / folder}" for folder in ("transport", "engine")]
    command = [compiler, *FLAGS, *SANITIZERS[sanitizer], *includes, str(source), *map(str, sources)]
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
