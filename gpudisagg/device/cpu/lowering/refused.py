"""Instructions that are known and not supported, and what to do about them."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction

_TEXTURES = "textures and surfaces aren't supported: read the array through a pointer"
_VIDEO = "video instructions aren't supported: use integer arithmetic"
_CLUSTERS = "clusters need compute capability 9.0; this device has 8.0"
_TENSOR = "tensor memory and warp-group products need compute capability 9.0 and more; use mma.sync"

REASONS: dict[str, str] = {
    **dict.fromkeys(("tex", "tld4", "txq", "suld", "sust", "sured", "suq", "istypep"), _TEXTURES),
    **dict.fromkeys(("vadd", "vsub", "vabsdiff", "vmin", "vmax", "vshl", "vshr", "vmad", "vset"), _VIDEO),
    **{
        f"{opcode}{width}": _VIDEO
        for opcode in ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset")
        for width in (2, 4)
    },
    **dict.fromkeys(("mapa", "getctarank", "clusterlaunchcontrol", "multimem"), _CLUSTERS),
    **dict.fromkeys(("wgmma", "tcgen05", "tensormap"), _TENSOR),
}


def reason(instruction: Instruction) -> str:
    """Why, as the end of an error's text; empty where nothing is known."""
    why = REASONS.get(instruction.opcode)
    if why is None and instruction.opcode == "barrier" and "cluster" in instruction.modifiers:
        why = _CLUSTERS
    return f": {why}" if why else ""
