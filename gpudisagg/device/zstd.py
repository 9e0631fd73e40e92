"""Zstandard frames to bytes (RFC 8878): what nvcc 13 and newer compress the PTX in fat binaries with.

Bounded by the size that the caller expects; anything malformed is a ValueError. No dictionaries.
"""

from __future__ import annotations

from typing import NamedTuple

_MAGIC = 0xFD2FB528
_MAX_BLOCK = 128 << 10


class _Table(NamedTuple):
    """An FSE decoding table, by state: symbol, bits to read, base of the next state."""

    log: int
    symbols: list[int]
    bits: list[int]
    bases: list[int]


def _lengths(base: int, plain: int, bits: list[int]) -> list[tuple[int, int]]:
    """(base, extra bits) of each length code: `plain` codes without extra bits, then by the list."""
    found = [(base + i, 0) for i in range(plain)]
    at = base + plain
    for extra in bits:
        found.append((at, extra))
        at += 1 << extra
    return found


_LITERALS = _lengths(0, 16, [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
_MATCHES = _lengths(3, 32, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
_LITERAL_COUNTS = [4, 3, *[2] * 11, 1, 1, 1, *[2] * 9, 3, 2, *[1] * 5, *[-1] * 4]
_OFFSET_COUNTS = [*[1] * 6, 2, 2, 2, *[1] * 15, *[-1] * 5]
_MATCH_COUNTS = [1, 4, 3, *[2] * 6, *[1] * 37, *[-1] * 7]


class _Backward:
    """Bits from the end of a stream to its beginning; before the beginning there are zeros."""

    def __init__(self, data: bytes) -> None:
        if not data or not data[-1]:
            raise ValueError("zstd: a bit stream without an end")
        self.data = data
        self.left = 8 * (len(data) - 1) + data[-1].bit_length() - 1

    def read(self, count: int) -> int:
        """The next `count` bits (at most 57)."""
        if count == 0:
            return 0
        end = self.left
        self.left = start = end - count
        if start < 0:
            first = 0
            shift = -start
        else:
            first, shift = start >> 3, 0
        word = int.from_bytes(self.data[first : first + 9], "little")
        if start >= 0:
            return word >> (start & 7) & ((1 << count) - 1)
        if end <= 0:
            return 0
        return (word & ((1 << end) - 1)) << shift


def _counts(data: bytes, most_log: int, most_symbols: int) -> tuple[list[int], int, int]:
    """A table's description: counts of symbols, log of their sum, bytes read."""
    log = (data[0] & 15) + 5
    if log > most_log:
        raise ValueError("zstd: a table too large")
    position, left = 4, (1 << log) + 1
    counts: list[int] = []
    while left > 1 and len(counts) < most_symbols:
        bits = left.bit_length()
        word = int.from_bytes(data[position >> 3 : (position >> 3) + 4], "little") >> (position & 7)
        low = word & ((1 << (bits - 1)) - 1)
        threshold = (1 << bits) - 1 - left
        if low < threshold:
            position += bits - 1
            value = low
        else:
            position += bits
            value = word & ((1 << bits) - 1)
            if value >= 1 << (bits - 1):
                value -= threshold
        count = value - 1
        left -= abs(count)
        counts.append(count)
        while count == 0:
            word = int.from_bytes(data[position >> 3 : (position >> 3) + 2], "little") >> (position & 7)
            position += 2
            counts += [0] * (word & 3)
            if word & 3 != 3:
                break
        if position > 8 * len(data):
            raise ValueError("zstd: a table runs out")
    if left != 1 or len(counts) > most_symbols:
        raise ValueError("zstd: malformed table")
    return counts, log, (position + 7) >> 3


def _table(counts: list[int], log: int) -> _Table:
    size = 1 << log
    symbols = [0] * size
    high = size - 1
    for symbol, count in enumerate(counts):
        if count == -1:
            symbols[high] = symbol
            high -= 1
    position, step = 0, (size >> 1) + (size >> 3) + 3
    for symbol, count in enumerate(counts):
        for _ in range(max(count, 0)):
            symbols[position] = symbol
            position = (position + step) & (size - 1)
            while position > high:
                position = (position + step) & (size - 1)
    following = [max(count, 1) if count else 0 for count in counts]
    bits, bases = [0] * size, [0] * size
    for state, symbol in enumerate(symbols):
        value = following[symbol]
        following[symbol] += 1
        bits[state] = log - (value.bit_length() - 1)
        bases[state] = (value << bits[state]) - size
    return _Table(log, symbols, bits, bases)


_PREDEFINED = (_table(_LITERAL_COUNTS, 6), _table(_OFFSET_COUNTS, 5), _table(_MATCH_COUNTS, 6))


class _Huffman(NamedTuple):
    """By the next `log` bits: symbol and length of its code."""

    log: int
    symbols: bytes
    lengths: bytes


def _weights(data: bytes) -> tuple[list[int], int]:
    head = data[0]
    if head >= 128:
        count = head - 127
        packed = data[1 : 1 + (count + 1) // 2]
        found = [value for byte in packed for value in (byte >> 4, byte & 15)][:count]
        return found, 1 + (count + 1) // 2
    counts, log, used = _counts(data[1 : 1 + head], 6, 256)
    table = _table(counts, log)
    stream = _Backward(data[1 + used : 1 + head])
    states = [stream.read(log), stream.read(log)]
    found = []
    turn = 0
    while len(found) < 255:
        state = states[turn]
        found.append(table.symbols[state])
        states[turn] = table.bases[state] + stream.read(table.bits[state])
        if stream.left < 0:
            found.append(table.symbols[states[1 - turn]])
            break
        turn = 1 - turn
    return found, 1 + head


def _huffman(weights: list[int]) -> _Huffman:
    total = sum(1 << (w - 1) for w in weights if w)
    if not total or len(weights) > 255:
        raise ValueError("zstd: malformed Huffman code")
    log = total.bit_length()
    rest = (1 << log) - total
    if log > 11 or rest & (rest - 1) or max(weights) > log:
        raise ValueError("zstd: malformed Huffman code")
    weights = [*weights, rest.bit_length()]
    symbols, lengths = bytearray(), bytearray()
    for weight in range(1, log + 1):
        for symbol, own in enumerate(weights):
            if own == weight:
                symbols += bytes([symbol]) * (1 << (weight - 1))
                lengths += bytes([log + 1 - weight]) * (1 << (weight - 1))
    return _Huffman(log, bytes(symbols), bytes(lengths))


def _decoded(code: _Huffman, data: bytes, count: int) -> bytes:
    stream = _Backward(data)
    log, symbols, lengths = code
    out = bytearray(count)
    # The next bits are looked at first, and taken once their code's length is known.
    word, have = 0, 0
    mask = (1 << log) - 1
    for index in range(count):
        if have < log:
            word = (word & ((1 << have) - 1)) << 40 | stream.read(40)
            have += 40
        at = word >> (have - log) & mask
        out[index] = symbols[at]
        have -= lengths[at]
    if stream.left + have != 0:
        raise ValueError("zstd: literals don't end where they should")
    return bytes(out)


class _Frame:
    """What one frame's blocks share."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.out = bytearray()
        self.repeats = [1, 4, 8]
        self.huffman: _Huffman | None = None
        self.tables: list[_Table | None] = [None, None, None]

    def block(self, data: bytes) -> None:
        literals, used = self.literals(data)
        self.sequences(data[used:], literals)

    def literals(self, data: bytes) -> tuple[bytes, int]:
        kind, form = data[0] & 3, data[0] >> 2 & 3
        if kind < 2:
            head, shift = {0: (1, 3), 2: (1, 3), 1: (2, 4), 3: (3, 4)}[form]
            size = int.from_bytes(data[:head], "little") >> shift
            if size > _MAX_BLOCK:
                raise ValueError("zstd: too many literals")
            if kind == 0:
                return data[head : head + size], head + size
            return data[head : head + 1] * size, head + 1
        head, bits = {0: (3, 10), 1: (3, 10), 2: (4, 14), 3: (5, 18)}[form]
        word = int.from_bytes(data[:head], "little") >> 4
        size, stored = word & ((1 << bits) - 1), word >> bits
        if size > _MAX_BLOCK or head + stored > len(data):
            raise ValueError("zstd: too many literals")
        body = data[head : head + stored]
        if kind == 2:
            weights, used = _weights(body)
            self.huffman = _huffman(weights)
            body = body[used:]
        if self.huffman is None:
            raise ValueError("zstd: no Huffman code")
        if form == 0:
            return _decoded(self.huffman, body, size), head + stored
        sizes = [int.from_bytes(body[2 * i : 2 * i + 2], "little") for i in range(3)]
        each, at, pieces = (size + 3) // 4, 6, []
        for index in range(4):
            end = at + sizes[index] if index < 3 else len(body)
            pieces.append(_decoded(self.huffman, body[at:end], each if index < 3 else size - 3 * each))
            at = end
        return b"".join(pieces), head + stored

    def sequences(self, data: bytes, literals: bytes) -> None:
        count, at = data[0], 1
        if count >= 128:
            count, at = (count - 128 << 8) + data[1], 2
            if data[0] == 255:
                count, at = data[1] + (data[2] << 8) + 0x7F00, 3
        if count == 0:
            self.append(literals)
            return
        modes, at = data[at], at + 1
        for index, (shift, most_log, most) in enumerate(((6, 9, 36), (4, 8, 32), (2, 9, 53))):
            mode = modes >> shift & 3
            if mode == 0:
                self.tables[index] = _PREDEFINED[index]
            elif mode == 1:
                if data[at] >= most:
                    raise ValueError("zstd: malformed table")
                self.tables[index] = _Table(0, [data[at]], [0], [0])
                at += 1
            elif mode == 2:
                counts, log, used = _counts(data[at:], most_log, most)
                self.tables[index] = _table(counts, log)
                at += used
        lengths, offsets, matches = self.tables
        if lengths is None or offsets is None or matches is None:
            raise ValueError("zstd: no table to repeat")
        self.execute(_Backward(data[at:]), count, literals, (lengths, offsets, matches))

    def execute(
        self, stream: _Backward, count: int, literals: bytes, tables: tuple[_Table, _Table, _Table]
    ) -> None:
        lengths, offsets, matches = tables
        states = [stream.read(table.log) for table in tables]
        taken = 0
        for index in range(count):
            code = offsets.symbols[states[1]]
            value = (1 << code) + stream.read(code)
            base, extra = _MATCHES[matches.symbols[states[2]]]
            match = base + stream.read(extra)
            base, extra = _LITERALS[lengths.symbols[states[0]]]
            length = base + stream.read(extra)
            if index < count - 1:
                for i, table in ((0, lengths), (2, matches), (1, offsets)):
                    states[i] = table.bases[states[i]] + stream.read(table.bits[states[i]])
            if stream.left < 0 or taken + length > len(literals):
                raise ValueError("zstd: sequences run out")
            self.append(literals[taken : taken + length])
            taken += length
            self.copy(self.offset(value, length), match)
        if stream.left != 0:
            raise ValueError("zstd: sequences don't end where they should")
        self.append(literals[taken:])

    def offset(self, value: int, length: int) -> int:
        """The distance that an offset value stands for: 1 to 3 are those used before."""
        repeats = self.repeats
        if value > 3:
            self.repeats = [value - 3, *repeats[:2]]
            return value - 3
        index = value - 1 + (length == 0)
        if index == 0:
            return repeats[0]
        found = repeats[0] - 1 if index == 3 else repeats[index]
        self.repeats = [found, repeats[0], repeats[2] if index == 1 else repeats[1]]
        return found

    def append(self, data: bytes) -> None:
        self.out += data
        if len(self.out) > self.most:
            raise ValueError("zstd: more than was announced")

    def copy(self, distance: int, length: int) -> None:
        out = self.out
        if not 0 < distance <= len(out) or len(out) + length > self.most:
            raise ValueError("zstd: a match beyond the beginning, or the end")
        start = len(out) - distance
        while length > 0:
            piece = out[start : start + length]
            out += piece
            length -= len(piece)


def decompress(data: bytes, size: int) -> bytes:
    """The content of a frame, which must have `size` bytes. ValueError."""
    try:
        content = _decompress(data, size)
    except IndexError:
        raise ValueError("zstd: the frame is cut off") from None
    if len(content) != size:
        raise ValueError("zstd: not the announced size")
    return content


def _decompress(data: bytes, most: int) -> bytes:
    if int.from_bytes(data[:4], "little") != _MAGIC:
        raise ValueError("zstd: not a frame")
    descriptor = data[4]
    single = descriptor >> 5 & 1
    at = 5 + (not single)
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    if any(data[at : at + dictionary]) or descriptor & 8:
        raise ValueError("zstd: dictionaries aren't supported")
    at += dictionary + ((1 if single else 0), 2, 4, 8)[descriptor >> 6]
    frame = _Frame(most)
    while True:
        if at + 3 > len(data):
            raise ValueError("zstd: the frame is cut off")
        head = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        at += 3
        if kind == 3 or size > _MAX_BLOCK:
            raise ValueError("zstd: malformed block")
        stored = 1 if kind == 1 else size
        if at + stored > len(data):
            raise ValueError("zstd: the frame is cut off")
        body = data[at : at + stored]
        if kind == 2:
            frame.block(body)
        else:
            frame.append(body * size if kind == 1 else body)
        at += stored
        if last:
            return bytes(frame.out)
