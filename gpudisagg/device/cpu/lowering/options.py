"""The modifiers of an instruction, taken one by one so that none is ignored."""

from __future__ import annotations

from gpudisagg.device.cpu.ast import Instruction
from gpudisagg.device.cpu.types import TYPES, ScalarType
from gpudisagg.device.errors import CompileError


class Options:
    """Modifiers split into types and flags. What a lowering doesn't take, `done` refuses."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.types = [TYPES[m] for m in instruction.modifiers if m in TYPES]
        self.flags = [m for m in instruction.modifiers if m not in TYPES]

    def unsupported(self, why: str = "") -> CompileError:
        """The error for a form of the instruction that isn't lowered."""
        text = f"unsupported instruction {self.instruction.text}"
        return CompileError(f"{text}: {why}" if why else text, line=self.instruction.line)

    def flag(self, name: str) -> bool:
        """Take `.name` if it is there."""
        if name in self.flags:
            self.flags.remove(name)
            return True
        return False

    def choice(self, *names: str) -> str | None:
        """Take the first of these modifiers that is there."""
        for name in self.flags:
            if name in names:
                self.flags.remove(name)
                return name
        return None

    def required(self, *names: str) -> str:
        """Take one of these modifiers, which must be there."""
        found = self.choice(*names)
        if found is None:
            raise self.unsupported(f"expected one of .{', .'.join(names)}")
        return found

    def ignore(self, *names: str) -> None:
        """Drop modifiers that are hints or mean nothing on this device."""
        self.flags = [flag for flag in self.flags if flag not in names]

    def type(self) -> ScalarType:
        """The single type of the instruction."""
        if len(self.types) != 1:
            raise self.unsupported("expected one type")
        return self.types[0]

    def done(self) -> None:
        """Refuse what nobody took."""
        if self.flags:
            raise self.unsupported(f".{self.flags[0]} isn't supported here")
