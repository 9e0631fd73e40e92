"""The cffi builder of `gpudisagg.server._engine`.

It compiles the transport's sources in: no C pointer crosses from one extension to the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # cffi runs this file by its path
import build_transport as common

ENGINE_HEADERS = ["engine.h"]

common.check_all_listed("engine", ENGINE_HEADERS)
ffibuilder = common.builder(
    "gpudisagg.server._engine",
    common.declarations("transport", common.TRANSPORT_HEADERS)
    + common.declarations("engine", ENGINE_HEADERS),
    ["transport", "engine"],
    [*common.TRANSPORT_HEADERS, *ENGINE_HEADERS],
)
