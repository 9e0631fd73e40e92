"""The lexer splits PTX into words, modifiers, numbers and punctuation, and counts lines."""

from __future__ import annotations

import pytest

from gpudisagg.device import CompileError
from gpudisagg.device.cpu.lexer import TokenKind, tokenize


def texts(source: str) -> list[str]:
    return [token.text for token in tokenize(source)][:-1]


def test_an_instruction() -> None:
    assert texts("@!%p1 ld.global.v2.f32 {%f1,%f2}, [%rd1+-8];") == [
        "@", "!", "%p1", "ld", "global", "v2", "f32", "{", "%f1", ",", "%f2", "}", ",", "[", "%rd1", "+", "-",
        "8", "]", ";",
    ]  # fmt: skip


def test_modifiers_may_have_colons() -> None:
    token = tokenize("st.shared::cta.b32")[1]
    assert (token.kind, token.text) == (TokenKind.DOTTED, "shared::cta")


@pytest.mark.parametrize(
    "number", ["0", "42", "0x1F", "0b101", "017", "3U", "0f3F800000", "0d3FF0000000000000", "1.5e3"]
)
def test_numbers(number: str) -> None:
    token = tokenize(number)[0]
    assert (token.kind, token.text) == (TokenKind.NUMBER, number)


def test_the_numbers_of_a_table_are_one_token() -> None:
    row = ", ".join(str(n) for n in range(20))
    tokens = tokenize("{" + row + ", -1, 017, 0x2}")
    kinds = [(t.kind, t.text) for t in tokens[1:3]]
    assert kinds == [(TokenKind.ROW, row + ", "), (TokenKind.PUNCTUATION, "-")]
    assert texts("{1, 2, 3}") == ["{", "1", ",", "2", ",", "3", "}"]


def test_lines_are_counted_through_comments() -> None:
    tokens = tokenize("a // one\n/* two\nthree */ b\n@@DWARF junk\nc")
    assert [(t.text, t.line) for t in tokens] == [("a", 1), ("b", 3), ("c", 5), ("", 5)]


def test_a_stray_character_is_an_error_with_its_line() -> None:
    with pytest.raises(CompileError) as caught:
        tokenize("ok\n\x01")
    assert caught.value.line == 2
