"""A server for tests in the guest, as `gpudisagg serve` is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 120.0  # seconds: it ends what hangs


@contextlib.contextmanager
def serving(
    *listen: str, options: tuple[object, ...] = (), before: tuple[str, ...] = ()
) -> Iterator[list[str]]:
    """Its addresses. `before`: words of a command that starts it.

    It has one worker: the next session gets the same, or the one that took its place. It ends in an orderly
    way, and without having failed, if the block did.
    """
    with tempfile.TemporaryDirectory(prefix="gpud-") as name:
        folder = Path(name)
        command = [*before, sys.executable, "-m", "gpudisagg", "serve", "--workers", "1", "--spares", "0"]
        command += ["--memory", "64MiB", "--threads", "1", "--hello-timeout", "60", "--allow-network"]
        command += ["--cache-dir", os.fspath(folder / "cache"), *map(str, options)]
        command += [word for one in listen for word in ("--listen", one)]
        log = folder / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in listen]
            assert all(line.startswith("gpudisagg: listening on ") for line in lines), log.read_text()
            yield [line.split()[-1] for line in lines]
            process.terminate()
            assert process.wait(PATIENCE) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
