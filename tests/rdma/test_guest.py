"""The script that boots the guest, as far as the tests that run in it do not show."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rdma.guest import SCRIPT, why_no_guest


def guest(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.fspath(SCRIPT), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def can_boot() -> None:
    if (reason := why_no_guest()) is not None:
        pytest.skip(reason)


def test_what_is_missing_is_named_with_what_gets_it(tmp_path: Path) -> None:
    """On a machine that has the shell's usual tools and nothing else."""
    for name in ("bash", "uname", "nproc", "sed", "sort", "tr", "ldd"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    done = guest("--check", PATH=os.fspath(tmp_path))
    assert done.returncode == 77
    missing, _, line = done.stdout.partition(": apt-get install ")
    assert {"qemu-system-x86_64", "busybox", "cpio"} <= set(missing.split())
    assert {"qemu-system-x86", "busybox-static", "cpio"} <= set(line.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["-w", "/nonexistent", "--", "true"], "/nonexistent"),
        (["-x", "--", "true"], "COMMAND"),
    ],
)
def test_wrong_words_are_refused(words: list[str], says: str) -> None:
    done = guest(*words)
    assert done.returncode == 125
    assert says in done.stderr


@pytest.mark.usefixtures("can_boot")
def test_a_guest_past_its_limit_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    done = guest("-t", "2", "--", "true", TMPDIR=os.fspath(tmp_path))
    assert done.returncode == 124
    assert "not done after 2 s" in done.stderr
    assert list(tmp_path.iterdir()) == []
