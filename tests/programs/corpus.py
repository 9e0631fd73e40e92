"""Kernels as other compilers made them: PTX files in the folders here, each with its facts in the first line.

A first line reads `// {"by": "triton 3.4.0", "threads": 128, "shared": 2048}`: who made it, the block and the
dynamic shared memory that maker would launch it with (0: it depends on the launch).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis.strategies import SearchStrategy

from gpudisagg.device import KernelCode
from tests.device.harness import compiler, launch

FOLDER = Path(__file__).parent
_TRIMMED = (".loc", ".file")


def fixtures() -> list[Path]:
    """Every PTX file that is committed here, in the order of their names."""
    return sorted(FOLDER.rglob("*.ptx"))


def trimmed(ptx: str) -> str:
    """Without comments, line numbers and debug sections: what a debugger reads and no kernel needs."""
    lines = ptx.splitlines()
    end = next((i for i, line in enumerate(lines) if line.split()[:1] == [".section"]), len(lines))
    kept = (line.split("//")[0].rstrip() for line in lines[:end])
    return "".join(f"{line}\n" for line in kept if line.strip() and line.split()[0] not in _TRIMMED)


@dataclass(frozen=True)
class Program:
    """One kernel of somebody's, and how its maker launches it."""

    name: str
    text: str
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Program:
        text = path.read_text()
        return cls(path.stem, text, json.loads(text.split("\n", 1)[0].removeprefix("//")))

    @classmethod
    def made(cls, name: str, ptx: str, **facts: Any) -> Program:
        return cls(name, f"// {json.dumps(facts)}\n{ptx}", facts)

    def write(self, folder: Path) -> None:
        (folder / f"{self.name}.ptx").write_text(self.text)

    @property
    def kernel(self) -> KernelCode:
        """The file's only kernel."""
        kernels = {k.name: k for k in compiler().load(self.text.encode(), name=self.name).kernels.values()}
        (kernel,) = kernels.values()
        return kernel

    def launch(
        self,
        grid: int | tuple[int, ...],
        *arguments: object,
        block: int | tuple[int, ...] | None = None,
        shared: int | None = None,
    ) -> None:
        """Run it, with the block and the shared memory of its facts if none are given."""
        launch(
            self.kernel,
            grid,
            block or self.facts["threads"],
            *arguments,
            dynamic_shared=self.facts["shared"] if shared is None else shared,
        )


Check = Callable[..., None]


@dataclass(frozen=True)
class Case:
    """What one kernel must do. `always`: draws that every run tries, empty and one-element ones above all."""

    name: str
    check: Check
    draws: Mapping[str, SearchStrategy[Any]]
    always: Sequence[tuple[Any, ...]]

    def run(self, program: Program, examples: int) -> None:
        # Compiled first: what can't compile isn't worth shrinking.
        _ = program.kernel

        def body(**drawn: Any) -> None:
            self.check(program, **drawn)

        test = settings(max_examples=examples, deadline=None)(given(**self.draws)(body))
        for values in self.always:
            test = example(**dict(zip(self.draws, values, strict=True)))(test)
        test()


@dataclass
class Cases:
    """The cases of one maker, collected by decorating their checks, which are named as the kernels are."""

    cases: dict[str, Case] = field(default_factory=dict)

    def __call__(
        self, *names: str, always: Sequence[tuple[Any, ...]] = (), **draws: SearchStrategy[Any]
    ) -> Callable[[Check], Check]:
        def collect(check: Check) -> Check:
            for name in names or (check.__name__,):
                self.cases[name] = Case(name, check, draws, always)
            return check

        return collect

    def __iter__(self) -> Iterator[str]:
        return iter(self.cases)

    def __getitem__(self, name: str) -> Case:
        return self.cases[name]
