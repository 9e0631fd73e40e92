"""The kernels of one file here, compiled once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from gpudisagg.device import KernelCode, LoadedModule
from tests.device.harness import compiler

few = settings(max_examples=5, deadline=None)
seeds = st.integers(0, 2**32 - 2)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


class Source:
    """A file of CUDA C++, compiled when its first kernel is asked for."""

    def __init__(self, name: str, *options: str) -> None:
        self.path = Path(__file__).with_name(name)
        self.options = options

    @cached_property
    def module(self) -> LoadedModule:
        return compiler().load(self.path.read_bytes(), options=self.options, name=self.path.stem)

    def __getitem__(self, name: str) -> KernelCode:
        """A kernel by its name, or that of a template followed by its mangled arguments: `reduceIdE`."""
        if name in self.module.kernels:
            return self.module.kernels[name]
        base = name.split("I", 1)[0] if "I" in name else name
        (kernel,) = [
            k for mangled, k in self.module.kernels.items() if mangled.startswith(f"_Z{len(base)}{name}")
        ]
        return kernel
