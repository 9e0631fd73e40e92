"""What a checked kernel may touch, asked of memcheck.c itself under the address sanitizer."""

from __future__ import annotations

from pathlib import Path

import sanitized

ENGINE = sanitized.ROOT / "csrc" / "engine"


def test_the_check_agrees_with_a_byte_for_a_byte(tmp_path: Path) -> None:
    sources = [ENGINE / "memcheck.c", ENGINE / "fault.c"]
    sanitized.run(sanitized.build("test_memcheck", "address", sources, tmp_path))
