"""Compiled code on disk, by content: one file per entry, written whole or not at all.

An entry is a magic line, a SHA-256 of what follows, and a JSON header and code, each with its length.
Whatever doesn't verify is treated as absent. The cache is bounded; the least recently used entries go
first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

FORMAT = 1
_MAGIC = b"gpudisagg code %d\n" % FORMAT
_LENGTHS = struct.Struct("<QQ")
DEFAULT_LIMIT = 512 << 20


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/gpudisagg/code`."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "gpudisagg" / "code"


class DiskCache:
    """A directory of entries. Trouble with the directory costs the caching, never the caller."""

    def __init__(self, directory: Path | None = None, limit: int = DEFAULT_LIMIT) -> None:
        self.directory = directory if directory is not None else default_directory()
        self.limit = limit

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.code"

    def get(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """The header and code stored under `key`, if they are whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        entry = _decode(data)
        if entry is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return entry

    def put(self, key: str, header: dict[str, Any], code: bytes) -> None:
        """Store an entry, then drop the oldest ones while there is too much."""
        data = _encode(header, code)
        if len(data) > self.limit:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.directory, suffix=".tmp")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(self._path(key))
        except OSError:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            return
        self._trim()

    def _trim(self) -> None:
        entries: list[tuple[float, int, Path]] = []
        try:
            for path in self.directory.iterdir():
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.suffix in (".code", ".tmp"):
                        entries.append((status.st_mtime, status.st_size, path))
        except OSError:
            return
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _encode(header: dict[str, Any], code: bytes) -> bytes:
    text = json.dumps(header, sort_keys=True).encode()
    body = _LENGTHS.pack(len(text), len(code)) + text + code
    return _MAGIC + hashlib.sha256(body).digest() + body


def _decode(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    start = len(_MAGIC) + 32
    body = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or len(body) < _LENGTHS.size:
        return None
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        return None
    text, code = _LENGTHS.unpack_from(body)
    if len(body) != _LENGTHS.size + text + code:
        return None
    try:
        header = json.loads(body[_LENGTHS.size : _LENGTHS.size + text])
    except ValueError:
        return None
    return (header, body[_LENGTHS.size + text :]) if isinstance(header, dict) else None
