"""Two network namespaces joined by a veth pair, for tests of what is between two hosts: delay, loss, a cut.

`with linked("delay 5ms loss 1%") as link:` then `link.near.popen([...])`, `link.far.run([...])`. An end
reaches the other and nothing else. When the link ends, all that was started there is killed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

NEAR, FAR = "10.78.0.1", "10.78.0.2"
CABLE = "cable"  # what either end calls its interface
_numbers = itertools.count()


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


class Namespace:
    """One end: a network of its own with an interface to the other."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self._started: list[subprocess.Popen[Any]] = []

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a command here. The process is the command's own, so signals reach it."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)
        self._started.append(process)
        return process

    def run(self, command: Sequence[str], *, timeout: float = 60, **options: Any) -> str:
        """What a command here printed; raises if it fails or takes too long."""
        words = ["ip", "netns", "exec", self.name, *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **options)
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def ip(self, *words: str) -> None:
        _command("ip", "-n", self.name, *words)

    def emulate(self, netem: str) -> None:
        """Delays, loses, ... what this end sends from now on, as `tc-netem(8)` has it; "" for none of it."""
        with contextlib.suppress(RuntimeError):  # there may be none yet
            _command("tc", "-n", self.name, "qdisc", "del", "dev", CABLE, "root")
        if netem:
            # Room for what is under way: by default 1,000 packets, and netem loses what is beyond.
            words = ["qdisc", "add", "dev", CABLE, "root", "netem", "limit", "100000", *netem.split()]
            _command("tc", "-n", self.name, *words)

    def end(self) -> None:
        for process in self._started:
            process.kill()
        pids = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=30, check=False
        )
        for pid in pids.stdout.split():  # children of what was started
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        for process in self._started:
            process.wait(30)
            for stream in process.stdin, process.stdout, process.stderr:
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


class Link:
    """Both ends of the cable."""

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self.near, self.far = near, far

    def emulate(self, netem: str) -> None:
        """In both directions: a delay is half of what a round trip gets."""
        self.near.emulate(netem)
        self.far.emulate(netem)

    def cut(self) -> None:
        """From now on nothing arrives and neither end is told: what is sent is addressed to no card."""
        for end, other in (self.near, self.far), (self.far, self.near):
            nobody = ["lladdr", "02:00:00:00:00:99", "nud", "permanent"]
            end.ip("neighbour", "replace", other.address, "dev", CABLE, *nobody)

    def mend(self) -> None:
        for end, other in (self.near, self.far), (self.far, self.near):
            end.ip("neighbour", "delete", other.address, "dev", CABLE)


@contextlib.contextmanager
def linked(netem: str = "") -> Iterator[Link]:
    """A link between two new namespaces, as `tc-netem(8)` has it in each direction."""
    stem = f"gpud-{os.getpid()}-{next(_numbers)}"
    near, far = Namespace(f"{stem}-near", NEAR), Namespace(f"{stem}-far", FAR)
    with contextlib.ExitStack() as undo:
        for end in near, far:
            _command("ip", "netns", "add", end.name)
            undo.callback(_command, "ip", "netns", "delete", end.name)
            undo.callback(end.end)
        near.ip("link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", far.name)
        for end in near, far:
            end.ip("link", "set", "lo", "up")
            end.ip("address", "add", f"{end.address}/24", "dev", CABLE)
            end.ip("link", "set", CABLE, "up")
        link = Link(near, far)
        if netem:
            link.emulate(netem)
        yield link


@contextlib.contextmanager
def _trial() -> Iterator[str]:
    """A namespace to try things in."""
    name = f"gpud-{os.getpid()}-{next(_numbers)}-trial"
    _command("ip", "netns", "add", name)
    try:
        yield name
    finally:
        _command("ip", "netns", "delete", name)


@functools.cache
def why_no_link() -> str | None:
    """Why this machine has no such links, and what to do; None where it has."""
    if os.geteuid() != 0:
        return "no network namespaces: only root can make them"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "no network namespaces: ip and tc are missing: apt-get install iproute2"
    try:
        with _trial() as name:
            _command("ip", "-n", name, "link", "add", "type", "veth")
    except RuntimeError as error:
        return f"no network namespaces joined by veth: {error}"
    return None


@functools.cache
def why_no_netem() -> str | None:
    """Why nothing can be delayed or lost on them, and what to do; None where it can be."""
    if (reason := why_no_link()) is not None:
        return reason
    try:
        with _trial() as name:
            _command("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except RuntimeError as error:
        return f"no netem (`modprobe sch_netem` would help where the kernel has the module): {error}"
    return None
