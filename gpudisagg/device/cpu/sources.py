"""From lines of PTX to lines of the source it was made from, by its `.loc` directives."""

from __future__ import annotations

from dataclasses import dataclass

from gpudisagg.device.cpu.lexer import Token, TokenKind, tokenize

_Spot = tuple[int, int, int]  # file, line, column


@dataclass(frozen=True)
class Place:
    """A line of the source. `file`: "" where it is the source that was given. `inlined`: the line of the
    given source at which that is inlined, 0 where it isn't.
    """

    file: str
    line: int
    inlined: int = 0


class SourceLines:
    """`at(line)`: the place in the source of a line of PTX, or None. `given`: the file name of the source."""

    def __init__(self, ptx: str, given: str) -> None:
        self._ptx = ptx
        self._given = given
        self._read = False
        self._files: dict[int, str] = {}
        # Where each function begins (None) and each location holds from, ascending; and where that is
        # inlined, innermost first. One spot may be inlined at several places.
        self._marks: list[tuple[int, _Spot | None, tuple[_Spot, ...]]] = []
        self._inlined: dict[_Spot, _Spot] = {}

    def _find(self) -> None:
        """Looks for the directives, when first asked: most modules never do."""
        self._read = True
        tokens = tokenize(self._ptx) if ".loc" in self._ptx else []
        for index, token in enumerate(tokens):
            if token.kind is not TokenKind.DOTTED:
                continue
            if token.text in ("entry", "func"):
                self._marks.append((token.line, None, ()))
            elif token.text == "file":
                self._file(_rest(tokens, index))
            elif token.text == "loc":
                self._location(token.line, _rest(tokens, index))

    def _file(self, rest: list[Token]) -> None:
        if len(rest) >= 2 and rest[0].text.isdecimal() and rest[1].kind is TokenKind.STRING:
            self._files[int(rest[0].text)] = rest[1].text

    def _location(self, line: int, rest: list[Token]) -> None:
        spot = _spot(rest)
        if spot is None:
            return
        self._inlined.pop(spot, None)
        for index, token in enumerate(rest):
            outer = _spot(rest[index + 1 :]) if token.text == "inlined_at" else None
            if outer is not None:
                self._inlined[spot] = outer
        self._marks.append((line, spot, self._around(spot)))

    def at(self, line: int) -> Place | None:
        """The place of a PTX line."""
        if not self._read:
            self._find()
        low, high = 0, len(self._marks)
        while low < high:
            middle = (low + high) // 2
            if self._marks[middle][0] <= line:
                low = middle + 1
            else:
                high = middle
        spot, around = self._marks[low - 1][1:] if low else (None, ())
        if spot is None or spot[1] == 0:
            return None
        inlined = [line for file, line, _ in around if self._name(file) == ""]
        return Place(self._name(spot[0]), spot[1], inlined[-1] if inlined else 0)

    def _around(self, spot: _Spot) -> tuple[_Spot, ...]:
        found: list[_Spot] = []
        while (outer := self._inlined.get(spot)) is not None and outer not in found:
            found.append(outer)
            spot = outer
        return tuple(found)

    def _name(self, file: int) -> str:
        path = self._files.get(file, "?")
        return "" if path.rpartition("/")[2] == self._given else path


def _rest(tokens: list[Token], index: int) -> list[Token]:
    """The tokens behind one on its line."""
    end = index + 1
    while tokens[end].line == tokens[index].line and tokens[end].kind is not TokenKind.END:
        end += 1
    return tokens[index + 1 : end]


def _spot(tokens: list[Token]) -> _Spot | None:
    numbers = [int(t.text) for t in tokens[:3] if t.kind is TokenKind.NUMBER and t.text.isdecimal()]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
