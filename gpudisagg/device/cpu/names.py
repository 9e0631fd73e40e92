"""Plain names for mangled ones."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def base_name(mangled: str) -> str | None:
    """The last identifier of an Itanium-mangled function or variable name: `_ZN2ns5saxpyEiPf` gives
    `saxpy`.
    """
    if not mangled.startswith("_Z"):
        return None
    rest = mangled[2:]
    nested = rest.startswith("N")
    if nested:
        rest = rest[1:].lstrip("K")
    if rest.startswith("L"):
        rest = rest[1:]
    found = None
    while rest and (rest[0].isdigit() or (nested and rest.startswith("12_GLOBAL__N_1"))):
        digits = 0
        while digits < len(rest) and rest[digits].isdigit() and digits < 6:
            digits += 1
        length = int(rest[:digits])
        name = rest[digits : digits + length]
        if length == 0 or len(name) != length:
            return None
        found = name
        rest = rest[digits + length :]
        if not nested:
            break
    return found


def with_plain(table: dict[str, T]) -> dict[str, T]:
    """The table, and each entry under its base name too where that name has one meaning only."""
    bases: dict[str, list[T]] = {}
    for name, entry in table.items():
        base = base_name(name)
        if base is not None:
            bases.setdefault(base, []).append(entry)
    extra = {base: found[0] for base, found in bases.items() if len(found) == 1 and base not in table}
    return {**table, **extra}
