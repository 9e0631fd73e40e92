"""PTX text to tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from gpudisagg.device.errors import CompileError


class TokenKind(Enum):
    """What a token is."""

    WORD = "word"  # identifier, opcode or register, '%' included
    DOTTED = "dotted"  # '.f32', '.shared::cta', '.x': the text is without the leading dot
    NUMBER = "number"
    ROW = "row"  # of a table: many plain decimal numbers, each with the comma after it
    STRING = "string"
    PUNCTUATION = "punctuation"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the line it is on."""

    kind: TokenKind
    text: str
    line: int


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+)
    |(?P<newline>\n)
    |(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<dwarf>@@[^\n]*)
    |(?P<row>(?:(?:0|[1-9][0-9]{0,18}),[ ]?){16,})
    |(?P<number>0[fF][0-9a-fA-F]{8}(?![0-9a-zA-Z_])|0[dD][0-9a-fA-F]{16}(?![0-9a-zA-Z_])
        |0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
        |[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|[0-9]+U?)
    |(?P<word>[A-Za-z_$%][A-Za-z0-9_$]*)
    |\.(?P<dotted>[A-Za-z0-9_]+(?:::[A-Za-z0-9_]+)*)
    |"(?P<string>[^"\n]*)"
    |(?P<punctuation>[{}\[\]();,:@!|+\-*/<>=~&^?.])
    """,
    re.VERBOSE | re.DOTALL,
)

_KINDS = {
    "number": TokenKind.NUMBER,
    "row": TokenKind.ROW,
    "word": TokenKind.WORD,
    "dotted": TokenKind.DOTTED,
    "string": TokenKind.STRING,
    "punctuation": TokenKind.PUNCTUATION,
}


def tokenize(text: str) -> list[Token]:
    """All tokens of `text`, ending in one END token."""
    tokens: list[Token] = []
    line = 1
    position = 0
    match = _TOKEN.match
    while position < len(text):
        found = match(text, position)
        if found is None:
            raise CompileError(f"unexpected character {text[position]!r}", line=line)
        group = found.lastgroup
        position = found.end()
        if group == "space":
            continue
        if group == "newline":
            line += 1
        elif group == "comment":
            line += found.group().count("\n")
        elif group is not None and group != "dwarf":
            tokens.append(Token(_KINDS[group], found.group(group), line))
    tokens.append(Token(TokenKind.END, "", line))
    return tokens
