"""Sizes in bytes, as people write them and as they read them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4,
          "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Bytes in `size`: an int, or text such as "512", "2GiB", "1.5 MiB", "10GB" (GB: powers of 1000).

    ValueError: negative, or no size at all.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    else:
        match = _SIZE.fullmatch(str(size))
        unit = match.group(2).lower() if match else None
        if match is None or unit not in _UNITS:
            raise ValueError(f"{size!r} is no size; write bytes or a text like '512MiB', '2GiB'")
        value = int(float(match.group(1)) * _UNITS[unit])
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{size!r} is no size that memory can have")
    return value


def format_size(size: int) -> str:
    """`size` bytes with a unit of three digits or so: "512 B", "1.5 GiB"."""
    value, units = float(size), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.4g} {unit}"
