"""The C extensions; all else is in pyproject.toml."""

from __future__ import annotations

import fcntl
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext


class LockedBuild(build_ext):
    """Several builds of one tree at once would write the same objects: the second waits for the first."""

    def run(self) -> None:
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().run()


setup(
    cffi_modules=["csrc/build_transport.py:ffibuilder", "csrc/build_engine.py:ffibuilder"],
    cmdclass={"build_ext": LockedBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
