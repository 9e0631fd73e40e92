"""What all tests share: are the built extensions those of the sources, hypothesis's profile, short socket
paths.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = {
    "transport/_transport.abi3.so": ("csrc/transport",),
    "gpudisagg/server/_engine.abi3.so": ("csrc/transport", "csrc/engine"),
}

GUEST = ("tests/rdma/", "tests/network/")

# No example has a time limit (machines differ), and CI looks at the same examples every time: it says what a
# change did, a developer's runs look for more.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("ci", settings.get_profile("any"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "any")


def stale_extensions() -> list[str]:
    """What is missing or older than its sources, in words."""
    found = []
    for name, folders in EXTENSIONS.items():
        built = ROOT / name
        if not built.exists():
            found.append(f"{name} is not built")
            continue
        sources = [path for folder in folders for path in (ROOT / folder).glob("*.[ch]")]
        newer = [path for path in sources if path.stat().st_mtime > built.stat().st_mtime]
        if newer:
            found.append(f"{name} is older than {newer[0].relative_to(ROOT)}")
    return found


def pytest_configure(config: pytest.Config) -> None:
    missing = [problem for problem in stale_extensions() if "not built" in problem]
    if missing:
        pytest.exit(f"{'; '.join(missing)}: run `make build` first", returncode=4)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"WARNING: {problem}: run `make build`" for problem in stale_extensions()]


if find_spec("xdist") is not None:
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        """Gives a process whole modules, so that what a module's tests share is made once; and all that may
        run in the guest to one process: there is one guest.
        """

        def _split_scope(self, nodeid: str) -> str:
            return "guest" if nodeid.startswith(GUEST) else nodeid.partition("::")[0]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
        return ByModule(config, log)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of this test's own whose path is short: a socket's has room for 107 bytes, and tmp_path may
    be longer.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpud-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(short_path: Path) -> str:
    """Where a server of this test may listen."""
    return f"unix://{short_path}/s.sock"
