"""What a row of the table of targets is made of."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass


def at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


def at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


@dataclass(frozen=True)
class Effort:
    """How much to measure. The default is for figures to quote; `smoke()` only shows that everything runs."""

    rounds: int = 21  # of subject and floor in turn
    round_trips: int = 20_000  # a round, in C
    python_round_trips: int = 5_000
    launches: int = 128  # a batch: within what the ring takes without waiting for credit
    opens: int = 40
    bulk_scale: int = 1  # divides the sizes of the bulk rows
    bulk_rounds: int = 7
    idle_seconds: float = 5.0
    deaths: int = 5
    peer_rounds: int = 7  # of subject, floor and rivals in turn, where they are programs of bench/peers
    peer_slice: float = 0.1  # seconds of a turn
    delayed_launches: int = 1_000
    verbs_rounds: int = 5
    verbs_transfers: int = 64
    peers_python: str = sys.executable  # the interpreter that has the peers' packages

    @classmethod
    def smoke(cls) -> Effort:
        """A fraction of a second each; the figures mean nothing."""
        return cls(
            rounds=2,
            round_trips=50,
            python_round_trips=50,
            launches=8,
            opens=2,
            bulk_scale=256,
            bulk_rounds=2,
            idle_seconds=0.2,
            deaths=1,
            peer_rounds=1,
            peer_slice=0.001,
            delayed_launches=20,
            verbs_rounds=1,
            verbs_transfers=8,
        )


class NotHere(LookupError):
    """A row cannot be measured on this machine, for want of what it compares with; the message says what."""


@dataclass(frozen=True)
class Measured:
    """A figure, and in words what it comes from."""

    value: float
    note: str


@dataclass(frozen=True)
class Target:
    """One row: what is measured, in which unit, what it should be, and how to tell whether it is."""

    name: str
    unit: str
    target: str
    measure: Callable[[Effort], Measured]
    holds: Callable[[float], bool]


@dataclass(frozen=True)
class Result:
    """One measured row. `value` is None where it could not be measured; `note` says why, or where the value
    comes from.
    """

    name: str
    value: float | None
    unit: str
    target: str
    holds: bool
    note: str
    here: bool = True  # False: what it compares with is not on this machine

    @property
    def verdict(self) -> str:
        if not self.here:
            return "n/a"
        return "holds" if self.holds else "MISSED" if self.value is not None else "FAILED"

    def as_json(self) -> dict[str, object]:
        """The row as it stands in the file that `bench targets --json` writes; with a `note` where it has no
        value.
        """
        keys = ("name", "value", "unit", "target", "holds", *(() if self.value is not None else ("note",)))
        return {key: getattr(self, key) for key in keys}

    def as_markdown(self) -> str:
        """The row of a table: what, measured, target."""
        if self.value is None:
            return f"| {self.name} | {self.note if not self.here else 'not measured'} | {self.target} |"
        missed = "" if self.holds else ", missed"
        return f"| {self.name} | {self.value:.3g} {self.unit} | {self.target}{missed} |"


def run(target: Target, effort: Effort) -> Result:
    """Measures one row. A row that fails is a result too: it does not hold, and says why."""
    try:
        measured = target.measure(effort)
    except NotHere as missing:
        note = f"n/a: {missing}"
        return Result(target.name, None, target.unit, target.target, False, note, here=False)
    except Exception as error:
        traceback.print_exc()
        return Result(
            target.name, None, target.unit, target.target, False, f"{type(error).__name__}: {error}"
        )
    holds = bool(target.holds(measured.value))
    return Result(target.name, measured.value, target.unit, target.target, holds, measured.note)
