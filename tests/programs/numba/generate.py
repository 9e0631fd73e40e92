"""Compiles `kernels.py` with Numba, which needs no GPU: `python -m tests.programs.numba.generate`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from tests.programs.corpus import Program, trimmed

CAPABILITY = (8, 0)
# Of Numba's own; some have the path of the installation in them.
_ENVIRONMENT = re.compile(r"_ZN08NumbaEnv\w+")


def generate(names: list[str] | None = None) -> Iterator[Program]:
    """The programs, as Numba gives them, with the kernels' names cut down to what the source calls them."""
    import numba
    import numba_cuda
    from numba import cuda
    from numba.cuda import dispatcher

    from tests.programs.numba.kernels import KERNELS

    # All that Numba asks of a device while it compiles: what a called function is typed for.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=CAPABILITY)
    for name in names or KERNELS:
        function, signature = KERNELS[name]
        if isinstance(signature, str):
            signature = numba.core.sigutils.normalize_signature(signature)[0]
        ptx, _ = cuda.compile_ptx(function, signature, cc=CAPABILITY, fastmath=name == "fast_mathematics")
        (entry,) = re.findall(r"\.entry\s+(\w+)", ptx)
        for i, symbol in enumerate(dict.fromkeys(_ENVIRONMENT.findall(ptx))):
            ptx = re.sub(rf"\b{symbol}\b", f"environment{i}", ptx)
        yield Program.made(
            name,
            ptx.replace(entry, name),
            by=f"numba {numba.__version__}, numba-cuda {numba_cuda.__version__}",
            threads=0,
            shared=0,
        )


if __name__ == "__main__":
    for program in generate():
        Program.made(program.name, trimmed(program.text), **program.facts).write(Path(__file__).parent)
