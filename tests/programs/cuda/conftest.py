"""A file's kernels are compiled before its tests, not in them: what can't compile isn't worth shrinking."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled(request: pytest.FixtureRequest) -> None:
    source = getattr(request.module, "source", None)
    if source is not None:
        _ = source.module
