"""Errors of the device layer."""

from __future__ import annotations


class CompileError(Exception):
    """Device code was refused: malformed, unsupported here, or rejected by NVRTC.

    `log` is the compiler's own output where there is any; `line` is a line of the PTX text
    (or None when the error has no place in it).
    """

    def __init__(self, message: str, *, log: str = "", line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line is not None else message)
        self.log = log
        self.line = line
