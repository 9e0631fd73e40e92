"""Makes generators.ptx of generators.cu.

It takes the wheel nvidia-curand-cu12 (10.3.10.19 was used, with NVRTC 12.9.86); the tests take only the PTX.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gpudisagg.device import nvrtc

HERE = Path(__file__).parent


def without_unused(ptx: str) -> str:
    """PTX without the variables that nothing in it names: tables of 200 KiB are among them."""
    kept = []
    for line in ptx.splitlines(keepends=True):
        declaration = line.partition("=")[0].split()
        if declaration[:1] in ([".global"], [".const"]):
            name = declaration[-1].partition("[")[0].rstrip(";")
            if ptx.count(name) == 1:
                continue
        kept.append(line)
    return "".join(kept)


def main() -> None:
    """Compile, and say what was compiled with."""
    if importlib.util.find_spec("nvidia.curand") is None:
        raise SystemExit("install nvidia-curand-cu12 first: its headers have the generators")
    ptx = nvrtc.compile_to_ptx((HERE / "generators.cu").read_bytes(), name="generators")
    text = without_unused(ptx.decode())
    (HERE / "generators.ptx").write_text(text)
    print(f"{len(text)} bytes, {nvrtc.version()}")


if __name__ == "__main__":
    main()
