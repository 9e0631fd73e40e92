"""A place in a token list: the primitives every part of the parser is written in."""

from __future__ import annotations

import struct

from gpudisagg.device.cpu.ast import Float, Initializer, Integer, Symbol, Variable
from gpudisagg.device.cpu.lexer import Token, TokenKind
from gpudisagg.device.cpu.types import TYPES, ScalarType
from gpudisagg.device.errors import CompileError

MAX_VARIABLE_BYTES = 1 << 30
MAX_NESTING = 64


def align_up(value: int, alignment: int) -> int:
    """`value` rounded up to a multiple of `alignment`."""
    return (value + alignment - 1) // alignment * alignment


class Cursor:
    """Reads tokens one by one; every method raises `CompileError` with a line on a surprise."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.index = 0

    @property
    def token(self) -> Token:
        """The next token, not yet taken."""
        return self.tokens[self.index]

    def peek(self, ahead: int = 1) -> Token:
        """A token further on; END past the end."""
        return self.tokens[min(self.index + ahead, len(self.tokens) - 1)]

    def advance(self) -> Token:
        """Take a token. END is never passed."""
        token = self.tokens[self.index]
        if token.kind is not TokenKind.END:
            self.index += 1
        return token

    def error(self, message: str, line: int | None = None) -> CompileError:
        """An error at the next token (or at `line`)."""
        token = self.token
        found = "end of file" if token.kind is TokenKind.END else repr(token.text[:40])
        if line is not None:
            return CompileError(message, line=line)
        return CompileError(f"{message}, at {found}", line=token.line)

    def at(self, punctuation: str) -> bool:
        """Whether the next token is this punctuation."""
        token = self.token
        return token.kind is TokenKind.PUNCTUATION and token.text == punctuation

    def accept(self, punctuation: str) -> bool:
        """Take the punctuation if it is next."""
        if self.at(punctuation):
            self.index += 1
            return True
        return False

    def expect(self, punctuation: str) -> None:
        """Take the punctuation, which must be next."""
        if not self.accept(punctuation):
            raise self.error(f"expected {punctuation!r}")

    def at_directive(self, name: str) -> bool:
        """Whether `.name` is next."""
        token = self.token
        return token.kind is TokenKind.DOTTED and token.text == name

    def accept_directive(self, name: str) -> bool:
        """Take `.name` if it is next."""
        if self.at_directive(name):
            self.index += 1
            return True
        return False

    def word(self) -> str:
        """An identifier."""
        if self.token.kind is not TokenKind.WORD:
            raise self.error("expected a name")
        return self.advance().text

    def dotted(self) -> str:
        """A directive or modifier, without its dot."""
        if self.token.kind is not TokenKind.DOTTED:
            raise self.error("expected a directive")
        return self.advance().text

    def skip_line(self, line: int) -> None:
        """Drop everything left on `line`."""
        while self.token.kind is not TokenKind.END and self.token.line == line:
            self.advance()

    def skip_past(self, punctuation: str) -> None:
        """Drop everything up to and including the punctuation."""
        while not self.accept(punctuation):
            if self.token.kind is TokenKind.END:
                raise self.error(f"expected {punctuation!r}")
            self.advance()

    def skip_attribute(self) -> None:
        """Drop `.attribute(...)`."""
        self.advance()
        self.expect("(")
        self.skip_past(")")

    def scalar_type(self) -> ScalarType:
        """A fundamental type."""
        token = self.token
        if token.kind is not TokenKind.DOTTED or token.text not in TYPES:
            raise self.error("expected a type")
        self.advance()
        return TYPES[token.text]

    def alignment(self) -> int:
        """`.align N` where there is one, else 0."""
        if not self.accept_directive("align"):
            return 0
        value = self.integer()
        if value < 1 or value > 1 << 16 or value & (value - 1):
            raise self.error("alignment must be a power of two")
        return value

    def dimensions(self) -> int | None:
        """`[a][b]...` as one count; None where the first is left open."""
        count = 1
        unsized = False
        first = True
        while self.accept("["):
            if first and self.accept("]"):
                unsized = True
            else:
                size = self.integer()
                self.expect("]")
                if size < 0:
                    raise self.error("negative array size")
                count *= size
                if count > MAX_VARIABLE_BYTES:
                    raise self.error("array too large")
            first = False
        return None if unsized else count

    # constant expressions

    def number(self) -> Integer | Float:
        """A literal."""
        token = self.token
        if token.kind is not TokenKind.NUMBER:
            raise self.error("expected a number")
        self.advance()
        text = token.text.removesuffix("U")
        if len(text) > 80:
            raise self.error("number too long", token.line)
        prefix = text[:2].lower()
        try:
            if prefix == "0f":
                return Float(int(text[2:], 16), 32)
            if prefix == "0d" and len(text) == 18:
                return Float(int(text[2:], 16), 64)
            if prefix == "0x":
                return Integer(int(text[2:], 16))
            if prefix == "0b":
                return Integer(int(text[2:], 2))
            if any(mark in text for mark in ".eE"):
                return Float(int.from_bytes(struct.pack(">d", float(text)), "big"), 64)
            return Integer(int(text, 8) if len(text) > 1 and text[0] == "0" else int(text))
        except (ValueError, OverflowError):
            raise self.error(f"malformed number {token.text}", token.line) from None

    def integer(self) -> int:
        """A constant integer expression."""
        line = self.token.line
        value = self.constant()
        if not isinstance(value, Integer):
            raise self.error("expected an integer", line)
        if not -(1 << 63) <= value.value < 1 << 64:
            raise self.error("integer out of range", line)
        return value.value

    def constant(self, depth: int = 0) -> Initializer:
        """A sum of literals and at most one symbol."""
        if depth > MAX_NESTING:
            raise self.error("expression nested too deeply")
        value = self._constant_term(depth)
        while self.at("+") or self.at("-"):
            negative = self.advance().text == "-"
            right = self._constant_term(depth)
            if not isinstance(right, Integer) or isinstance(value, Float):
                raise self.error("only integers can be added in a constant expression")
            amount = -right.value if negative else right.value
            if isinstance(value, Symbol):
                value = Symbol(value.name, value.offset + amount, value.generic)
            else:
                value = Integer(value.value + amount)
        return value

    def _constant_term(self, depth: int) -> Initializer:
        if depth > MAX_NESTING:
            raise self.error("expression nested too deeply")
        if self.accept("-"):
            value = self._constant_term(depth + 1)
            if isinstance(value, Integer):
                return Integer(-value.value)
            if isinstance(value, Float):
                return Float(value.bits ^ (1 << (value.width - 1)), value.width)
            raise self.error("can't negate an address")
        if self.accept("~"):
            value = self._constant_term(depth + 1)
            if not isinstance(value, Integer):
                raise self.error("expected an integer")
            return Integer(~value.value)
        if self.accept("("):
            value = self.constant(depth + 1)
            self.expect(")")
            return value
        if self.token.kind is TokenKind.WORD:
            name = self.advance().text
            if name == "generic" and self.accept("("):
                value = self.constant(depth + 1)
                self.expect(")")
                if not isinstance(value, Symbol):
                    raise self.error("generic() takes a variable")
                return Symbol(value.name, value.offset, generic=True)
            return Integer(32) if name == "WARP_SZ" else Symbol(name)
        number = self.number()
        if isinstance(number, Integer) and self.at("("):
            return self._masked(number.value, depth)
        return number

    def _masked(self, mask: int, depth: int) -> Initializer:
        """`0xFF00(symbol)`: a byte of an address."""
        self.expect("(")
        value = self.constant(depth + 1)
        self.expect(")")
        if not isinstance(value, Symbol) or mask not in {0xFF << 8 * byte for byte in range(8)}:
            raise self.error("a mask takes one byte of an address")
        return Symbol(value.name, value.offset, value.generic, mask)

    # variables

    def variables(self, space: str, *, external: bool = False) -> list[Variable]:
        """What follows `.global`, `.shared` and so on, up to and including the semicolon."""
        line = self.token.line
        while self.at_directive("attribute"):
            self.skip_attribute()
        align = self.alignment()
        lanes = 1
        for name, count in (("v2", 2), ("v4", 4)):
            if self.accept_directive(name):
                lanes = count
        scalar = self.scalar_type()
        align = self.alignment() or align
        found: list[Variable] = []
        while True:
            name = self.word()
            dimensions = self.dimensions() if self.at("[") else 1
            initializers: tuple[Initializer, ...] = ()
            if self.accept("="):
                initializers = tuple(self._initializer(0))
            if dimensions is None and initializers:
                dimensions = len(initializers)
            count_all = None if dimensions is None else dimensions * lanes
            if (count_all or 0) * scalar.bytes > MAX_VARIABLE_BYTES:
                raise self.error("variable too large", line)
            if count_all is not None and len(initializers) > count_all:
                raise self.error(f"too many initial values for {name}", line)
            found.append(
                Variable(
                    name,
                    space,
                    scalar,
                    count_all,
                    align or scalar.bytes * lanes,
                    line,
                    external,
                    initializers,
                )
            )
            if not self.accept(","):
                break
        self.expect(";")
        return found

    def _initializer(self, depth: int) -> list[Initializer]:
        if depth > MAX_NESTING:
            raise self.error("initial value nested too deeply")
        if not self.accept("{"):
            return [self.constant()]
        values: list[Initializer] = []
        while not self.accept("}"):
            if self.token.kind is TokenKind.ROW:
                values.extend(Integer(int(number)) for number in self.advance().text.split(",")[:-1])
                continue
            values.extend(self._initializer(depth + 1))
            if not self.at("}"):
                self.expect(",")
        return values
