"""Each row of the cpu device's kernels measures something, at its smallest size. Those of `bench.kernels` are
among the targets (`test_targets.py`).
"""

from __future__ import annotations

import pytest

from bench import typical
from bench.row import Effort, Target, run


@pytest.mark.parametrize("row", typical.ROWS, ids=lambda row: row.name)
def test_a_row_gives_a_number_or_says_what_is_missing(row: Target) -> None:
    result = run(row, Effort.smoke())
    assert result.note
    if result.here:
        assert result.value is not None and result.value > 0, result.note
    else:
        assert "install" in result.note
