"""Cooperative launches and the heap of kernels, under the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sanitized


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_blocks_that_wait_for_one_another(sanitizer: str, tmp_path: Path) -> None:
    sources = [*sanitized.TRANSPORT, *sanitized.ENGINE]
    sanitized.run(sanitized.build("test_cooperative", sanitizer, sources, tmp_path))
