"""The cffi builder of `transport._transport`, and what build_engine.py shares with it.

A header's parts between `/* cffi: begin */` and `/* cffi: end */` are the cdef, word for word: so C and
Python cannot drift.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)

# In the order in which their declarations use each other.
TRANSPORT_HEADERS = ["wire.h", "wait.h", "endpoint.h", "bootstrap.h", "connection.h", "bulk.h", "verbs.h"]

FLAGS = ["-std=c11", "-O3", "-D_GNU_SOURCE", "-fvisibility=hidden", "-Wall", "-Wextra"]
# The generated glue, not our sources: its tables leave fields out and its wrappers ignore arguments.
FLAGS += ["-Wno-missing-field-initializers", "-Wno-unused-parameter", "-Wno-cast-function-type"]
if os.environ.get("CI") or os.environ.get("GPUDISAGG_WERROR") == "1":
    FLAGS += ["-Werror"]


def link_time_flags() -> list[str]:
    """With gcc, functions are inlined across files: a message crosses five of them on its way (a round trip
    takes 15 % less so, measured). Other compilers go without: their linkers may not know how.
    """
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    try:
        told = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    return ["-flto=auto"] if "Free Software Foundation" in told else []


def declarations(folder: str, headers: list[str]) -> str:
    """The marked parts of csrc/<folder>/<headers>, in order."""
    parts: list[str] = []
    for header in headers:
        found = MARKED.findall((HERE / folder / header).read_text(encoding="utf-8"))
        if not found:
            raise RuntimeError(f"csrc/{folder}/{header} has no part marked for cffi")
        parts += found
    return "\n".join(parts)


def check_all_listed(folder: str, listed: list[str]) -> None:
    """A header that is marked but not listed would be missed in silence."""
    for path in sorted((HERE / folder).glob("*.h")):
        if path.name not in listed and MARKED.search(path.read_text(encoding="utf-8")):
            raise RuntimeError(
                f"csrc/{folder}/{path.name} has parts marked for cffi but is not in the list of headers"
            )


def files(folder: str, pattern: str) -> list[str]:
    """csrc/<folder>/<pattern> relative to the root, as setuptools wants its sources."""
    return [path.relative_to(ROOT).as_posix() for path in sorted((HERE / folder).glob(pattern))]


def builder(module: str, cdef: str, folders: list[str], headers: list[str]) -> cffi.FFI:
    """An extension `module` made of all C sources in csrc/<folders>."""
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    ffi.set_source(
        module,
        "".join(f'#include "{header}"\n' for header in headers),
        sources=[name for folder in folders for name in files(folder, "*.c")],
        depends=[name for folder in folders for name in files(folder, "*.h")],
        include_dirs=[f"csrc/{folder}" for folder in folders],
        extra_compile_args=FLAGS + link_time_flags(),
        extra_link_args=["-O3", *link_time_flags()],
        libraries=["pthread", "dl", "m"],
        py_limited_api=True,
    )
    return ffi


check_all_listed("transport", TRANSPORT_HEADERS)
ffibuilder = builder(
    "transport._transport", declarations("transport", TRANSPORT_HEADERS), ["transport"], TRANSPORT_HEADERS
)
