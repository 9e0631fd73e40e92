"""The two processes of a peer, seen from the bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bench import measure
from bench.peer import Peer

_PATIENCE = 60.0


class PeerFailed(RuntimeError):
    """A peer could not be opened or measured; the message says why."""


@dataclass(frozen=True)
class RoundTrips:
    """ns. `mean` is of the middle four fifths: finer than a median where the clock's steps are coarse."""

    p50: float
    p99: float
    mean: float


class Pair(Protocol):
    """A peer that is open: each call measures once, and nothing of it runs between two calls."""

    def round_trips(self, count: int) -> RoundTrips: ...

    def one_way(self, count: int) -> float:
        """ns a message of 64 bytes, of `count` sent one after the other."""
        ...

    def bulk(self, size: int, count: int) -> float:
        """ns a transfer of `size` bytes, each acknowledged before the next."""
        ...

    def close(self) -> None: ...


class Processes:
    """A Pair of two of our own programs (program.py)."""

    def __init__(
        self,
        module: str,
        variant: str = "",
        *,
        interpreter: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        largest: int,
    ) -> None:
        self._name = f"{module} {variant}".strip()
        cpus = measure.two_cpus()
        self._ends: dict[str, Peer] = {}
        try:
            for role, cpu in zip(("client", "server"), cpus, strict=True):
                arguments = [module, variant, role, str(-1 if cpu is None else cpu), str(largest)]
                self._ends[role] = Peer(
                    arguments,
                    module="bench.peers.program",
                    interpreter=interpreter,
                    environment=environment,
                )
            self._introduce()
        except BaseException:
            self._give_up()
            raise

    def _introduce(self) -> None:
        """Carries what the ends say of themselves to each other until both are open."""
        opened = set[str]()
        others = {"client": "server", "server": "client"}
        while len(opened) < 2:
            for role in others.keys() - opened:
                said = self._hear(role)
                if "meet" in said:
                    self._ends[others[role]].say(json.dumps(said))
                else:
                    opened.add(role)

    def _hear(self, role: str) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads(self._ends[role].hear(_PATIENCE))
        except (RuntimeError, ValueError) as error:
            self._give_up()
            raise PeerFailed(f"{self._name}, {role}: {error}") from error
        if "error" in said:
            self._give_up()
            raise PeerFailed(f"{self._name}, {role}: {said['error']}")
        return said

    def _measure(self, what: str, count: int, size: int = 0) -> dict[str, Any]:
        told = json.dumps({"what": what, "count": count, "size": size})
        self._ends["server"].say(told)
        self._hear("server")
        self._ends["client"].say(told)
        measured = self._hear("client")
        self._hear("server")
        return measured

    def _compare(self, sent: int, size: int) -> None:
        self._ends["server"].say(json.dumps({"what": "checksum", "count": 0, "size": size}))
        if self._hear("server")["checksum"] != sent:
            self._give_up()
            raise PeerFailed(f"{self._name}: other bytes arrived than were sent (bulk of {size} bytes)")

    def round_trips(self, count: int) -> RoundTrips:
        return RoundTrips(**self._measure("round_trips", count))

    def one_way(self, count: int) -> float:
        return float(self._measure("one_way", count)["ns"])

    def bulk(self, size: int, count: int) -> float:
        measured = self._measure("bulk", count, size)
        if measured["checksum"] is not None:
            self._compare(measured["checksum"], size)
        return float(measured["ns"])

    def _give_up(self) -> None:
        for end in self._ends.values():
            end.kill()
        self.close()

    def close(self) -> None:
        while self._ends:
            self._ends.popitem()[1].close()
