"""Tests that need what this machine's kernel may lack run in a guest (guest.sh), all of them in one boot,
and each is reported here as itself.

A conftest hands the items it cannot run to `send_to_guest`. The first of them that is run boots the guest
with the ids of all that are selected; a pytest there runs them, in this order, and writes what came of each,
which is read here as it comes. `pytest tests/rdma/inside/test_x.py::test_y` boots a guest for that one test.

A module whose tests run in the guest is collected here too: what this machine may lack is not imported at its
top. Its `prepare_on_host`, if it has one, is called before the boot: to compile, which is slow in there.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("guest.sh")
IN_GUEST = os.environ.get("GPUDISAGG_GUEST") == "1"
LIMIT = 1500  # seconds, for the boot and all tests in the guest
_NO_GUEST = 125  # guest.sh's exit status where the guest failed, not what ran in it
FETCH_LIMIT = 420  # seconds, for the kernel's package on the first run


@functools.cache
def why_no_guest() -> str | None:
    """Why this machine can run no guest, and what to install; None where it can."""
    command = [os.fspath(SCRIPT), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_LIMIT, check=False)
    if done.returncode == 0:
        return None
    return f"no guest: {(done.stdout or done.stderr).strip()}"


def send_to_guest(items: list[pytest.Item], chosen: list[pytest.Item]) -> None:
    """In `items`, puts in the place of each of `chosen` one that has it run in the guest."""
    wanted = {id(item) for item in chosen}
    for index, item in enumerate(items):
        if id(item) in wanted and not IN_GUEST:
            items[index] = GuestItem.in_place_of(item)


class FailedInGuest(Exception):
    """Carries what the guest's pytest printed of a failure."""


class GuestItem(pytest.Item):
    """A test that runs in the guest."""

    original: pytest.Item

    @classmethod
    def in_place_of(cls, original: pytest.Item) -> GuestItem:
        assert original.parent is not None
        item: GuestItem = cls.from_parent(original.parent, name=original.name)
        item.original = original
        item.own_markers.extend(original.own_markers)
        item.keywords.update(original.keywords)
        # The first to run waits for the boot. The guest's pytest ends what hangs there, guest.sh the guest.
        item.add_marker(pytest.mark.timeout(LIMIT + FETCH_LIMIT))
        return item

    def setup(self) -> None:
        reason = why_no_guest()
        if reason is not None:
            pytest.skip(reason)

    def runtest(self) -> None:
        for report in Guest.of(self.session).reports(self.nodeid):
            for title, text in report["sections"]:
                self.add_report_section(report["when"], f"in the guest: {title.partition(' ')[2]}", text)
            if report["outcome"] == "failed":
                raise FailedInGuest(report["text"])
            if report["wasxfail"] is not None:
                pytest.xfail(report["wasxfail"])
            if report["outcome"] == "skipped":
                pytest.skip(report["text"])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        if isinstance(excinfo.value, FailedInGuest):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.original.reportinfo()


class Guest:
    """A guest that runs the tests `ids`."""

    KEY = pytest.StashKey["Guest"]()

    def __init__(self, ids: list[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gpud-report-"))
        self._written = self._folder / "reports"
        self._output = self._folder / "output"
        self._read = 0
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._ids = ids
        self._again = True  # an emulated kernel sometimes panics while it boots
        self._boot()

    def _boot(self) -> None:
        self._deadline = time.monotonic() + LIMIT + 30
        python = [sys.executable, "-m", "pytest", "-p", "tests.rdma.reporter", "-p", "pytest_timeout"]
        # Importing is what takes time there: no plugins but those, and no conftest above these folders.
        options = ["-p", "no:cacheprovider", "--confcutdir", os.fspath(SCRIPT.parent), "--no-header"]
        environment = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GPUDISAGG_GUEST_REPORTS": os.fspath(self._written),
            "GPUDISAGG_TEST_LESS": "50",
        }
        # The guest does not outlive this process, however that ends.
        command = ["setpriv", "--pdeathsig", "TERM", os.fspath(SCRIPT)]
        command += ["-t", str(LIMIT), "-w", os.fspath(self._folder)]
        command += [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        command += ["--", *python, *options, *self._ids]
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @classmethod
    def of(cls, session: pytest.Session) -> Guest:
        """The guest of this session, booted when first asked for."""
        stash = session.config.stash
        if cls.KEY not in stash:
            items = [item for item in session.items if isinstance(item, GuestItem)]
            for module in {item.original.getparent(pytest.Module) for item in items}:
                prepare = getattr(getattr(module, "obj", None), "prepare_on_host", None)
                if prepare is not None:
                    prepare()
            stash[cls.KEY] = cls([item.nodeid for item in items])
            session.config.add_cleanup(stash[cls.KEY].end)
        return stash[cls.KEY]

    def reports(self, nodeid: str) -> list[dict[str, Any]]:
        """What came of each phase of this test, once it is over."""
        while not self._is_over(nodeid):
            ended = self._process.poll()
            self._take()
            if self._is_over(nodeid):
                break
            if ended == _NO_GUEST and self._again and not self._reports:
                self._again = False
                self._boot()
                continue
            if ended is not None or time.monotonic() > self._deadline:
                said = self._output.read_text(errors="replace")[-8000:]
                state = "was not done in time" if ended is None else f"ended with {ended}"
                raise FailedInGuest(f"the guest {state} and did not report {nodeid}; it said:\n{said}")
            time.sleep(0.05)
        return self._reports[nodeid]

    def _is_over(self, nodeid: str) -> bool:
        return any(report["when"] == "teardown" for report in self._reports.get(nodeid, ()))

    def _take(self) -> None:
        """Reads the lines that have come since, whole ones only."""
        if not self._written.exists():
            return
        with open(self._written, "rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            report = json.loads(line)
            self._reports.setdefault(report["nodeid"], []).append(report)

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
