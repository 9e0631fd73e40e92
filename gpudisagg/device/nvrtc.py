"""CUDA C++ to PTX by NVRTC, which needs no GPU and no driver."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

from gpudisagg.device.errors import CompileError
from gpudisagg.device.shims import HEADERS

ARCHITECTURE = "compute_80"
# The last two aren't asked for: what they have is found where they are installed.
_WHEELS = (
    "nvidia.cuda_runtime",
    "nvidia.cuda_cccl",
    "nvidia.cuda_nvrtc",
    "nvidia.cuda_nvcc",
    "nvidia.curand",
)
_INT128 = frozenset({"--device-int128", "-device-int128"})
_INCLUDED = tuple(f"--pre-include={name}.h" for name in ("math", "float", "limits", "stdint"))
_UNDEFINED = re.compile(r'error: identifier "\w+" is undefined')
_lock = threading.Lock()


@cache
def include_directories() -> tuple[str, ...]:
    """Where the CUDA headers of the NVIDIA wheels are (cuda_fp16.h, cuda/std, ...)."""
    found: list[str] = []
    for package in _WHEELS:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for root in (spec.submodule_search_locations or ()) if spec is not None else ():
            for directory in (Path(root) / "include", Path(root) / "include" / "cccl"):
                if directory.is_dir():
                    found.append(str(directory))
    return tuple(found)


@cache
def _headers() -> dict[str, str]:
    """What stands in for headers that no directory has."""
    from gpudisagg.device.mma_header import mma_header

    if any((Path(directory) / "crt" / "mma.h").is_file() for directory in include_directories()):
        return HEADERS
    return {**HEADERS, "crt/mma.h": mma_header()}


@cache
def _binding() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompileError(
            "CUDA C++ needs NVRTC: install cuda-bindings and nvidia-cuda-nvrtc-cu12, or pass PTX",
            log=str(error),
        ) from None
    return nvrtc


@cache
def version() -> str:
    """NVRTC's version, for cache keys; raises `CompileError` without NVRTC."""
    try:
        result, major, minor = _binding().nvrtcVersion()
    except RuntimeError as error:
        raise CompileError("NVRTC can't be loaded: install nvidia-cuda-nvrtc-cu12", log=str(error)) from None
    shims = hashlib.sha256(repr(_headers()).encode()).hexdigest()[:16]
    return f"nvrtc {major}.{minor} {shims}" if int(result) == 0 else f"nvrtc {shims}"


def compile_to_ptx(source: bytes, *, options: tuple[str, ...] = (), name: str = "module") -> bytes:
    """PTX of a CUDA C++ source text. NVRTC's complaints are in the error's `log`."""
    binding = _binding()
    version()
    arguments = [f"--gpu-architecture={ARCHITECTURE}", *options, *(f"-I{d}" for d in include_directories())]
    if _INT128.isdisjoint(options):
        arguments.append("--device-int128")  # nvcc has the type without being asked
    if any(option.startswith(("--gpu-architecture", "-arch", "-dlto", "--dlink")) for option in options):
        raise CompileError(
            f"the cpu device compiles for {ARCHITECTURE}: leave the architecture out of options"
        )
    if b"\0" in source:
        raise CompileError(
            "the image is neither CUDA C++ nor a binary this device knows (it has a zero byte)"
        )
    complaints, log, ptx = _compile(binding, source, arguments, name)
    if ptx is None and _UNDEFINED.search(log):
        # What nvcc includes without being asked (INFINITY, FLT_MAX, uint8_t), for programs that count on it.
        _, _, ptx = _compile(binding, source, [*arguments, *_INCLUDED], name)
    if ptx is None:
        raise CompileError(f"NVRTC: {complaints}", log=log)
    return ptx


def _compile(binding: Any, source: bytes, arguments: list[str], name: str) -> tuple[str, str, bytes | None]:
    """The first error, all NVRTC says, and the PTX if there is no error."""
    bodies = [body.encode() for body in _headers().values()]
    names = [header.encode() for header in _headers()]
    with _lock:
        result, program = binding.nvrtcCreateProgram(
            source, (name if name.endswith(".cu") else f"{name}.cu").encode(), len(bodies), bodies, names
        )
        if int(result) != 0:
            return result.name, "", None
        try:
            (result,) = binding.nvrtcCompileProgram(
                program, len(arguments), [argument.encode() for argument in arguments]
            )
            if int(result) != 0:
                log = _text(binding, program, "ProgramLog")
                return next((line for line in log.splitlines() if "error" in line), result.name), log, None
            return "", "", _text(binding, program, "PTX").encode()
        finally:
            binding.nvrtcDestroyProgram(program)


def _text(binding: Any, program: Any, what: str) -> str:
    result, size = getattr(binding, f"nvrtcGet{what}Size")(program)
    if int(result) != 0:
        return ""
    buffer = b" " * size
    getattr(binding, f"nvrtcGet{what}")(program, buffer)
    text: str = buffer.rstrip(b"\0 ").decode(errors="replace")
    return text
