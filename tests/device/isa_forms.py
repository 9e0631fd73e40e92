"""Instruction forms of the PTX ISA by chapter, from isa_forms.txt, as whole modules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

REGISTERS = """\
.reg .pred %p<8>; .reg .b16 %h<20>; .reg .b32 %r<40>; .reg .b64 %d<20>;
.reg .f32 %f<20>; .reg .f64 %e<20>; .reg .b128 %q<4>;
.shared .align 16 .b8 sh[1024]; .local .align 16 .b8 lo[64];"""
MODULE = """\
.global .align 16 .b8 gl[1024]; .const .align 16 .b8 co[64];
.func helper() { ret; }
.func (.reg .b32 o) f1 (.reg .b32 i) { mov.b32 o, i; ret; }
.func (.reg .b32 o) f2 (.reg .b32 i) { mov.b32 o, i; ret; }"""


def forms() -> dict[str, list[str]]:
    """The lines of each chapter."""
    chapters: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("isa_forms.txt").read_text().splitlines():
        if line.startswith("["):
            chapters[line[1:-1]] = []
        elif line and not line.startswith("#"):
            chapters[list(chapters)[-1]].append(line)
    return chapters


def module(text: str) -> str:
    """A kernel of one instruction, which is on line 15."""
    return f"""\
.version 8.8
.target sm_100a
.address_size 64
{MODULE}

.visible .entry k(.param .u64 out)
{{
{REGISTERS}

{text}
ret;
}}
"""


def expanded(form: str) -> Iterator[str]:
    """Every alternative of a form. Braces with a blank or a register in them are operands."""
    pieces = re.split(r"(\{[^{}%\s][^{}\s]*\}|\{%[a-z_0-9]+[^r\d,}][^{}\s]*\})", form)
    choices = [p[1:-1].split(",") if p.startswith("{") and i % 2 else [p] for i, p in enumerate(pieces)]
    for choice in itertools.product(*choices):
        yield "".join(choice)


_X = {"16": "h", "32": "r", "64": "d"}


def concrete(text: str) -> str:
    """X0, X1, ... as registers of the (last) type that the instruction names."""
    types = re.findall(r"\.([usbf])(\d+)\b", text.split(" ")[0])
    if not types:
        return text
    last = types[-1]
    if text.startswith("slct"):
        last = types[0]
    letter = {"f32": "f", "f64": "e"}.get("".join(last), _X.get(last[1], "r"))
    return re.sub(r"\bX(\d)", lambda m: f"%{letter}{m[1]}", text)
