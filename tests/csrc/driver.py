"""A C test program that answers requests: each is written to its standard input, each answer is an int32."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import TracebackType

ANSWER = struct.Struct("<i")


class Driver:
    """Runs `binary` until closed. A report of its sanitizer, or any other end, fails the test that asked."""

    def __init__(self, binary: Path) -> None:
        self._process = subprocess.Popen(
            [str(binary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ask(self, request: bytes) -> int:
        """The program's answer to `request`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
            answer = self._process.stdout.read(ANSWER.size)
        except BrokenPipeError:
            answer = b""
        if len(answer) != ANSWER.size:
            self.close()
        (value,) = ANSWER.unpack(answer)
        return int(value)

    def close(self) -> None:
        """Ends the program: its status must be 0, leaks included."""
        _, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors.decode(errors="replace")

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._process.kill()
            self._process.communicate()
