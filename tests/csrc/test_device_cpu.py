"""The cpu device's thread pool, under the thread sanitizer above all."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitized


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_pool(sanitizer: str, tmp_path: Path) -> None:
    sources = [*sanitized.TRANSPORT, *sanitized.ENGINE]
    sanitized.run(sanitized.build("test_device_cpu", sanitizer, sources, tmp_path))
