"""Where a server listens: `unix:///run/gpudisagg.sock`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["SCHEMES", "Address", "parse"]

SCHEMES = ("unix",)
_MAX_UNIX_PATH = 107  # bytes in sockaddr_un.sun_path, its final NUL not counted


class Address(NamedTuple):
    """A parsed address. `path` is absolute."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"


def parse(text: str) -> Address:
    """Parses an address; ValueError (TypeError: no text) says what is wrong with it and what would be
    right.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address is a text such as 'unix:///run/name.sock', not {type(text).__name__}")
    parts = urlsplit(text)
    if not parts.scheme:
        raise ValueError(f"{text!r} has no scheme: write unix:///absolute/path.sock")
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"{text!r}: no transport {parts.scheme}://; there is {known}")
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/"):
        raise ValueError(
            f"{text!r}: a unix address has three slashes and an absolute path: unix:///run/name.sock"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"{text!r}: nothing may follow the path (write ? and # as %3F and %23)")
    if "\0" in path:
        raise ValueError(f"{text!r}: a path has no NUL")
    if len(str(Path(path)).encode()) > _MAX_UNIX_PATH:
        raise ValueError(
            f"{text!r}: the kernel takes socket paths up to {_MAX_UNIX_PATH} bytes; choose a shorter one"
        )
    return Address(parts.scheme, path)
