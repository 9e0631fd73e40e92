"""Function bodies: declarations, statements, nested scopes, operands."""

from __future__ import annotations

from dataclasses import replace

from gpudisagg.device.cpu.ast import (
    Address,
    Arguments,
    Body,
    BranchTargets,
    Guard,
    Instruction,
    Integer,
    Label,
    Operand,
    Pair,
    Param,
    Register,
    Sink,
    Statement,
    Symbol,
    Variable,
    Vector,
)
from gpudisagg.device.cpu.cursor import MAX_NESTING, Cursor
from gpudisagg.device.cpu.lexer import TokenKind
from gpudisagg.device.cpu.types import ScalarType
from gpudisagg.device.errors import CompileError

MAX_REGISTERS = 1 << 18
_SPACES = frozenset({"local", "shared", "param", "global", "const"})
_TEXTURES = frozenset({"tex", "tld4", "suld", "sust", "sured", "cp", "multimem", "tensormap", "tcgen05"})
# Their operands may be parts of registers.
_VIDEO = frozenset({"vadd", "vsub", "vabsdiff", "vmin", "vmax", "vshl", "vshr", "vmad", "vset"}) | frozenset(
    f"{name}{count}"
    for name in ("vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset")
    for count in (2, 4)
)
_Scope = tuple[int, ...]


class BodyParser:
    """Parses one `{ ... }`.

    Inner scopes may redeclare names (inline assembly does so freely), so a name declared for the second
    time is renamed `name@2`, and the body that comes out is flat.
    """

    def __init__(self, cursor: Cursor, params: tuple[Param, ...]) -> None:
        self.cursor = cursor
        self.names: list[dict[str, str]] = [{param.name: param.name for param in params}]
        self.used: set[str] = {param.name for param in params}
        self.registers: dict[str, ScalarType] = {p.name: p.type for p in params if p.register}
        self.variables: list[Variable] = []
        self.statements: list[tuple[Statement, _Scope]] = []
        self.labels: dict[tuple[_Scope, str], str] = {}
        self.targets: list[tuple[BranchTargets, _Scope]] = []
        self.scope: _Scope = ()
        self.scopes_opened = 0
        self.opcode = ""

    def body(self) -> Body:
        """The body at the cursor, braces included."""
        self.cursor.expect("{")
        self.block(0)
        statements = tuple(self.resolve_labels(statement, scope) for statement, scope in self.statements)
        targets = {
            table.name: BranchTargets(table.name, tuple(self.label(t, scope) for t in table.targets))
            for table, scope in self.targets
        }
        return Body(self.registers, tuple(self.variables), statements, targets)

    def block(self, depth: int) -> None:
        cursor = self.cursor
        while not cursor.accept("}"):
            token = cursor.token
            if token.kind is TokenKind.END:
                raise cursor.error("expected '}'")
            if cursor.accept("{"):
                self.nested(depth + 1)
            elif cursor.accept(";"):
                continue
            elif token.kind is TokenKind.DOTTED:
                self.directive()
            elif token.kind is TokenKind.WORD and cursor.peek().text == ":":
                self.labelled()
            else:
                self.statements.append((self.instruction(), self.scope))

    def nested(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise self.cursor.error("scopes nested too deeply")
        outer = self.scope
        self.scopes_opened += 1
        self.scope = (*outer, self.scopes_opened)
        self.names.append({})
        self.block(depth)
        self.names.pop()
        self.scope = outer

    def declare(self, name: str, line: int) -> str:
        if name in self.names[-1]:
            raise CompileError(f"{name} is declared twice", line=line)
        unique = name
        number = 1
        while unique in self.used:
            number += 1
            unique = f"{name}@{number}"
        self.used.add(unique)
        self.names[-1][name] = unique
        return unique

    def lookup(self, name: str) -> str | None:
        for names in reversed(self.names):
            if name in names:
                return names[name]
        return None

    def directive(self) -> None:
        cursor = self.cursor
        token = cursor.advance()
        if token.text == "reg":
            self.declare_registers(token.line)
        elif token.text in _SPACES:
            for variable in cursor.variables(token.text):
                name = self.declare(variable.name, variable.line)
                self.variables.append(replace(variable, name=name))
        elif token.text == "loc":
            cursor.skip_line(token.line)
        elif token.text == "pragma":
            cursor.skip_past(";")
        else:
            raise cursor.error(f"unknown directive .{token.text}", token.line)

    def declare_registers(self, line: int) -> None:
        cursor = self.cursor
        scalar = cursor.scalar_type()
        while True:
            name = cursor.word()
            if cursor.accept("<"):
                count = cursor.integer()
                cursor.expect(">")
                if not 0 <= count <= MAX_REGISTERS - len(self.registers):
                    raise cursor.error("too many registers", line)
                for number in range(count):
                    self.registers[self.declare(f"{name}{number}", line)] = scalar
            else:
                self.registers[self.declare(name, line)] = scalar
            if not cursor.accept(","):
                break
        cursor.expect(";")

    def labelled(self) -> None:
        cursor = self.cursor
        line = cursor.token.line
        name = cursor.word()
        cursor.expect(":")
        if cursor.accept_directive("branchtargets"):
            targets = [cursor.word()]
            while cursor.accept(","):
                targets.append(cursor.word())
            cursor.expect(";")
            self.targets.append((BranchTargets(name, tuple(targets)), self.scope))
        elif cursor.at_directive("callprototype") or cursor.at_directive("calltargets"):
            cursor.skip_past(";")
        else:
            key = (self.scope, name)
            if key in self.labels:
                raise CompileError(f"label {name} is defined twice", line=line)
            unique = name if not self.scope else f"{name}@{self.scope[-1]}"
            self.labels[key] = unique
            self.statements.append((Label(unique, line), self.scope))

    def label(self, name: str, scope: _Scope) -> str:
        for depth in range(len(scope), -1, -1):
            unique = self.labels.get((scope[:depth], name))
            if unique is not None:
                return unique
        return name

    def resolve_labels(self, statement: Statement, scope: _Scope) -> Statement:
        if not isinstance(statement, Instruction) or statement.opcode != "bra" or not statement.operands:
            return statement
        target = statement.operands[0]
        if not isinstance(target, Symbol) or (unique := self.label(target.name, scope)) == target.name:
            return statement
        return replace(statement, operands=(Symbol(unique), *statement.operands[1:]))

    def instruction(self) -> Instruction:
        cursor = self.cursor
        line = cursor.token.line
        guard = None
        if cursor.accept("@"):
            negated = cursor.accept("!")
            operand = self.name_operand()
            if not isinstance(operand, Register):
                raise CompileError("a guard must be a predicate register", line=line)
            guard = Guard(replace(operand, negated=negated))
        self.opcode = opcode = cursor.word()
        modifiers: list[str] = []
        while cursor.token.kind is TokenKind.DOTTED:
            modifiers.append(cursor.advance().text)
        operands: list[Operand] = []
        while not cursor.at(";"):
            if operands:
                cursor.expect(",")
            operands.append(self.operand(0))
        cursor.expect(";")
        return Instruction(opcode, tuple(modifiers), tuple(operands), guard, line)

    def operand(self, depth: int) -> Operand:
        if depth > MAX_NESTING:
            raise self.cursor.error("operand nested too deeply")
        cursor = self.cursor
        first: Operand
        if cursor.accept("["):
            return self.address()
        if cursor.accept("{"):
            return Vector(self.sequence("}", depth))
        if cursor.at("(") and depth == 0:
            cursor.advance()
            return Arguments(self.sequence(")", depth))
        if cursor.accept("!"):
            first = self.name_operand()
            if not isinstance(first, Register):
                raise cursor.error("'!' takes a predicate")
            return replace(first, negated=True)
        if self.opcode == "vmad" and cursor.at("-") and cursor.peek().kind is TokenKind.WORD:
            cursor.advance()
            first = self.name_operand()
            if not isinstance(first, Register):
                raise cursor.error("'-' takes a register")
            return replace(first, negated=True)
        first = self.name_operand() if cursor.token.kind is TokenKind.WORD else self.constant_operand()
        if cursor.accept("|"):
            return Pair(first, self.operand(depth + 1))
        return first

    def constant_operand(self) -> Operand:
        return self.cursor.constant()

    def sequence(self, end: str, depth: int) -> tuple[Operand, ...]:
        cursor = self.cursor
        elements: list[Operand] = []
        while not cursor.accept(end):
            if elements:
                cursor.expect(",")
            elements.append(self.operand(depth + 1))
        return tuple(elements)

    def name_operand(self) -> Operand:
        cursor = self.cursor
        token = cursor.token
        name = cursor.word()
        if name == "_":
            return Sink()
        if name == "WARP_SZ":
            return Integer(32)
        unique = self.lookup(name)
        if unique is not None and unique in self.registers:
            if self.opcode in _VIDEO and cursor.token.kind is TokenKind.DOTTED:
                return Register(unique, part=cursor.advance().text)
            return Register(unique)
        if name.startswith("%") and unique is None:
            # A special register; the vector ones have a component.
            if cursor.token.kind is TokenKind.DOTTED:
                name = f"{name}.{cursor.advance().text}"
            return Register(name)
        if name == "generic" and cursor.at("("):
            cursor.index = cursor.tokens.index(token, cursor.index - 1)
            return self.constant_operand()
        offset = 0
        if cursor.at("+") or cursor.at("-"):
            negative = cursor.advance().text == "-"
            offset = cursor.integer()
            offset = -offset if negative else offset
        return Symbol(unique or name, offset)

    def address(self) -> Address:
        cursor = self.cursor
        base: Operand
        base = self.name_operand() if cursor.token.kind is TokenKind.WORD else self.constant_operand()
        offset = 0
        if isinstance(base, Symbol):
            base, offset = replace(base, offset=0), base.offset
        if cursor.accept("+") or cursor.at("-"):
            offset += cursor.integer()
        if cursor.at(",") and self.opcode in _TEXTURES:
            # What follows (sampler, coordinates) is part of an instruction that is refused by name.
            cursor.skip_past("]")
        else:
            cursor.expect("]")
        if not isinstance(base, Register | Symbol | Integer):
            raise cursor.error("malformed address")
        return Address(base, offset)
