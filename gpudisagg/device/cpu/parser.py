"""PTX tokens to a module: module scope, directives and function headers.

Function bodies are in `body.py`, operands and constant expressions in `cursor.py`.
"""

from __future__ import annotations

from dataclasses import replace

from gpudisagg.device.cpu.ast import Function, Module, Param, Variable
from gpudisagg.device.cpu.body import BodyParser
from gpudisagg.device.cpu.cursor import Cursor, align_up
from gpudisagg.device.cpu.lexer import TokenKind, tokenize
from gpudisagg.device.cpu.link import link
from gpudisagg.device.errors import CompileError

MAX_PARAM_BYTES = 32764
_LINKAGE = frozenset({"extern", "visible", "weak", "common"})
_VARIABLE_SPACES = frozenset({"global", "const", "shared"})
_ONE_LINE = frozenset({"file", "loc", "alias"})
_NUMBERED_BOUNDS = frozenset(
    {"minnctapersm", "maxnreg", "maxclusterrank", "reqnctapercluster", "abi_preserve"}
)
_BARE_BOUNDS = frozenset({"noreturn", "explicitcluster", "blocksareclusters"})


def parse(source: bytes | str) -> Module:
    """The module in `source`, or several one after another, linked; any input gives a module or a
    `CompileError`.
    """
    if isinstance(source, bytes):
        try:
            text = source.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise CompileError(f"PTX isn't UTF-8 text: {error.reason}") from None
    else:
        text = source
    return _ModuleParser(text).module()


def _strongest(linkage: set[str]) -> str:
    return next((name for name in ("extern", "weak", "common", "visible") if name in linkage), "")


class _ModuleParser:
    def __init__(self, text: str) -> None:
        self.cursor = Cursor(tokenize(text))
        self.variables: dict[str, Variable] = {}
        self.functions: dict[str, Function] = {}
        self.version = (0, 0)
        self.target = ""
        self.finished: list[Module] = []

    def module(self) -> Module:
        cursor = self.cursor
        while cursor.token.kind is not TokenKind.END:
            self.item()
        if self.version == (0, 0):
            raise CompileError("no .version directive: this isn't PTX")
        self.finish()
        return link(self.finished)

    def finish(self) -> None:
        """The end of a module: of the text, or where another begins."""
        self.finished.append(Module(self.version, self.target, self.variables, self.functions))
        self.variables, self.functions = {}, {}

    def item(self) -> None:
        cursor = self.cursor
        if cursor.accept(";"):
            return
        linkage: set[str] = set()
        while cursor.token.kind is TokenKind.DOTTED and cursor.token.text in _LINKAGE:
            linkage.add(cursor.advance().text)
        token = cursor.token
        if token.kind is not TokenKind.DOTTED:
            raise cursor.error("expected a directive")
        cursor.advance()
        name = token.text
        if name == "version":
            if self.version != (0, 0):
                self.finish()
            self.read_version()
        elif name == "target":
            self.target = cursor.word()
            while cursor.accept(","):
                cursor.word()
        elif name == "address_size":
            if cursor.integer() != 64:
                raise cursor.error("only .address_size 64 is supported", token.line)
        elif name in _ONE_LINE:
            cursor.skip_line(token.line)
        elif name == "pragma":
            cursor.skip_past(";")
        elif name == "section":
            self.skip_section()
        elif name in _VARIABLE_SPACES:
            for variable in cursor.variables(name, external="extern" in linkage):
                self.declare_variable(replace(variable, linkage=_strongest(linkage)))
        elif name in ("entry", "func"):
            self.function(name == "entry", _strongest(linkage))
        else:
            raise cursor.error(f"unknown directive .{name}", token.line)

    def read_version(self) -> None:
        token = self.cursor.advance()
        major, dot, minor = token.text.partition(".")
        if token.kind is not TokenKind.NUMBER or not dot or not (major.isdecimal() and minor.isdecimal()):
            raise CompileError("malformed .version", line=token.line)
        if len(token.text) > 16:
            raise CompileError("malformed .version", line=token.line)
        self.version = (int(major), int(minor))

    def skip_section(self) -> None:
        cursor = self.cursor
        while not cursor.at("{"):
            if cursor.token.kind is TokenKind.END:
                raise cursor.error("unterminated .section")
            cursor.advance()
        depth = 0
        while True:
            token = cursor.advance()
            if token.kind is TokenKind.END:
                raise cursor.error("unterminated .section")
            if token.kind is TokenKind.PUNCTUATION:
                depth += (token.text == "{") - (token.text == "}")
                if depth == 0:
                    return

    def declare_variable(self, variable: Variable) -> None:
        known = self.variables.get(variable.name)
        if known is not None and not known.external and not variable.external:
            raise CompileError(f"{variable.name} is declared twice", line=variable.line)
        if known is None or known.external:
            self.variables[variable.name] = variable

    def function(self, entry: bool, linkage: str) -> None:
        cursor = self.cursor
        line = cursor.token.line
        if cursor.at_directive("attribute"):
            cursor.skip_attribute()
        returns = self.params() if not entry and cursor.at("(") else ()
        name = cursor.word()
        params = self.params() if cursor.at("(") else ()
        max_threads = self.bounds()
        body = None
        if cursor.at("{"):
            body = BodyParser(cursor, (*params, *returns)).body()
        else:
            cursor.expect(";")
        known = self.functions.get(name)
        if known is not None and known.body is not None:
            if body is not None:
                raise CompileError(f"{name} is defined twice", line=line)
            return
        self.functions[name] = Function(name, entry, params, returns, body, max_threads, line, linkage)

    def bounds(self) -> int:
        """The directives between a header and its body; gives the most threads a block may have."""
        cursor = self.cursor
        threads = 1024
        while cursor.token.kind is TokenKind.DOTTED:
            name = cursor.token.text
            if name in ("maxntid", "reqntid"):
                cursor.advance()
                product = cursor.integer()
                while cursor.accept(","):
                    product *= cursor.integer()
                if not 1 <= product <= 1024:
                    raise cursor.error(f".{name} must be between 1 and 1024 threads")
                threads = product
            elif name == "pragma":
                cursor.skip_past(";")
            elif name in _NUMBERED_BOUNDS:
                cursor.advance()
                cursor.integer()
                while cursor.accept(","):
                    cursor.integer()
            elif name in _BARE_BOUNDS:
                cursor.advance()
            elif name == "attribute":
                cursor.skip_attribute()
            else:
                raise cursor.error(f"unknown directive .{name}")
        return threads

    def params(self) -> tuple[Param, ...]:
        cursor = self.cursor
        cursor.expect("(")
        params: list[Param] = []
        names: set[str] = set()
        offset = 0
        while not cursor.accept(")"):
            if params:
                cursor.expect(",")
            param = self.param(offset)
            if param.name in names:
                raise cursor.error(f"parameter {param.name} is declared twice")
            names.add(param.name)
            params.append(param)
            offset = param.offset + param.size
            if offset > MAX_PARAM_BYTES:
                raise cursor.error("more than 32764 bytes of parameters")
        return tuple(params)

    def param(self, offset: int) -> Param:
        cursor = self.cursor
        kind = cursor.dotted()
        if kind not in ("param", "reg"):
            raise cursor.error("expected .param")
        align = cursor.alignment()
        scalar = cursor.scalar_type()
        if cursor.accept_directive("ptr"):
            # What a pointer parameter points to is a hint; its alignment isn't the parameter's.
            while cursor.token.kind is TokenKind.DOTTED and cursor.token.text != "align":
                cursor.advance()
            cursor.alignment()
        else:
            align = cursor.alignment() or align
        name = cursor.word()
        size = scalar.bytes
        if cursor.at("["):
            size *= cursor.dimensions() or 0
        align = align or scalar.bytes
        return Param(name, scalar, size, align, align_up(offset, align), register=kind == "reg")
