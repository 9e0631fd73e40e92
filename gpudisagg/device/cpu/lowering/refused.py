"""Instructions that are known and not supported, and what to do about them."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction

_TEXTURES = "textures and surfaces aren't supported: read the array through a pointer"
_CLUSTERS = (
    "clusters need compute capability 9.0; this device has 8.0: let blocks meet in global memory, in a "
    "cooperative launch"
)
_TENSOR = (
    "tensor memory and warp-group products need compute capability 9.0 and more; this device has 8.0: "
    "use mma.sync"
)
_MAPS = "tensor maps (TMA) need compute capability 9.0; this device has 8.0: copy with cp.async"
_MULTICAST = "multimem is for memory of several GPUs: use the plain instruction"

REASONS: dict[str, str] = {
    **dict.fromkeys(("tex", "tld4", "txq", "suld", "sust", "sured", "suq", "istypep"), _TEXTURES),
    **dict.fromkeys(("mapa", "getctarank", "clusterlaunchcontrol"), _CLUSTERS),
    **dict.fromkeys(("wgmma", "tcgen05"), _TENSOR),
    "tensormap": _MAPS,
    "multimem": _MULTICAST,
}


def reason(instruction: Instruction) -> str:
    """Why, as the end of an error's text; empty where nothing is known."""
    why = REASONS.get(instruction.opcode)
    if why is None and instruction.opcode == "barrier" and "cluster" in instruction.modifiers:
        why = _CLUSTERS
    return f": {why}" if why else ""
