"""The verbs endpoint between processes, under the sanitizers: messages, credit, transfers, keys that do not
fit, the end of either side. Nothing of libibverbs is left behind by any of it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.csrc import sanitized

FOLDER = Path(__file__).resolve().parents[3] / "build" / "guest"
SOURCE = Path(sanitized.__file__).with_name("verbs_processes.c")
SCENARIOS = re.findall(r'^ +\{"(\w+)",', SOURCE.read_text(encoding="utf-8"), re.MULTILINE)


def prepare_on_host() -> None:
    """Compiled before the guest boots: there it would take minutes. Put in place whole, as another guest may
    be running them.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    sources = [*SOURCE.parent.glob("*.h"), *sanitized.ROOT.glob("csrc/transport/*"), SOURCE]
    newest = max(source.stat().st_mtime for source in sources)
    for sanitizer in ("address", "thread"):
        if built(sanitizer).exists() and built(sanitizer).stat().st_mtime > newest:
            continue
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            binary = sanitized.build("verbs_processes", sanitizer, sanitized.TRANSPORT, Path(folder))
            binary.replace(built(sanitizer))


def built(sanitizer: str) -> Path:
    return FOLDER / f"verbs_processes-{sanitizer}"


def queue_pairs() -> int:
    """That the kernel knows of."""
    shown = subprocess.run(["rdma", "resource", "show"], capture_output=True, text=True, check=True).stdout
    return sum(int(count) for count in re.findall(r"\bqp (\d+)", shown))


# Those of several threads in one process: for the thread sanitizer too, which takes ten times as long.
THREADS = [name for name in SCENARIOS if "thread" in name or "interrupt" in name]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(rdma_address: str, scenario: str) -> None:
    before = queue_pairs()
    sanitized.run(built("address"), rdma_address, scenario, timeout=60)
    assert queue_pairs() == before


@pytest.mark.parametrize("scenario", THREADS)
def test_threads(rdma_address: str, scenario: str) -> None:
    sanitized.run(built("thread"), rdma_address, scenario, timeout=60)
