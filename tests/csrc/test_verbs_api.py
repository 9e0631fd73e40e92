"""Verbs on a machine that need not have any: what is said where there is none, which device is taken, and
the tables of registered memory. What takes an RDMA device is tested in tests/rdma.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import sanitized

HEADER = Path("/usr/include/infiniband/verbs.h")
needs_header = pytest.mark.skipif(not HEADER.exists(), reason="no verbs.h: apt-get install libibverbs-dev")


def probe(binary: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """What it returns and says; it left nothing open and sent nothing."""
    kept = {name: value for name, value in os.environ.items() if name != "GPUDISAGG_RDMA_DEVICE"}
    done = subprocess.run(
        [binary, *arguments], env=kept | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rc, contexts, sent, text = done.stdout.strip().split(" ", 3)
    assert (contexts, sent) == ("0", "0")
    return int(rc), text


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build("verbs_probe", "address", sanitized.TRANSPORT, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a stand-in for the library: whole, and one that lacks functions."""
    folder = tmp_path_factory.mktemp("fake")
    source = Path(__file__).with_name("fake_ibverbs.c")
    flags = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fPIC"]
    subprocess.run([*flags, "-c", source, "-o", folder / "found.o"], check=True)
    subprocess.run([*flags, "-DREST", "-c", source, "-o", folder / "rest.o"], check=True)
    for name, objects in {"whole": ["found.o", "rest.o"], "old": ["found.o"]}.items():
        (folder / name).mkdir()
        library = folder / name / "libibverbs.so.1"
        subprocess.run(["gcc", "-shared", *(folder / made for made in objects), "-o", library], check=True)
    return folder


def test_built_without_the_header_says_how_to_build_with_it(tmp_path: Path) -> None:
    binary = tmp_path / "probe"
    source = Path(__file__).with_name("verbs_probe.c")
    folder = f"-I{sanitized.ROOT / 'csrc' / 'transport'}"
    command = ["gcc", *sanitized.FLAGS, "-DGPUD_NO_VERBS", folder, source, *sanitized.TRANSPORT]
    subprocess.run([*command, "-lpthread", "-ldl", "-lm", "-o", binary], check=True)
    built_without = (-errno.ENOTSUP, "built without headers: install libibverbs-dev and reinstall")
    assert probe(binary) == built_without
    assert probe(binary, "accept") == built_without


@needs_header
def test_without_the_library_it_says_what_to_install(prober: Path, tmp_path: Path) -> None:
    (tmp_path / "libibverbs.so.1").write_bytes(b"no library")
    rc, text = probe(prober, LD_LIBRARY_PATH=os.fspath(tmp_path))
    assert rc == -errno.ELIBACC
    assert "install libibverbs1" in text


@needs_header
def test_a_library_that_lacks_a_function_is_named_as_old(prober: Path, fakes: Path) -> None:
    rc, text = probe(prober, LD_LIBRARY_PATH=os.fspath(fakes / "old"))
    assert rc == -errno.ELIBACC
    assert text == "libibverbs.so.1 has no ibv_alloc_pd: update rdma-core"


@needs_header
@pytest.mark.parametrize(
    ("machine", "wanted", "rc", "says"),
    [
        ("none", None, -errno.ENODEV, "no RDMA device"),
        ("no kernel support", None, -errno.ENODEV, "no RDMA device"),
        ("closed", None, -errno.EACCES, "/dev/infiniband/uverbs"),
        ("down", None, -errno.ENETDOWN, "bring its link up"),
        ("ethernet", None, -errno.ENETDOWN, "RoCE v2"),  # its addresses are of no RoCE that the kernel knows
        ("infiniband", None, 0, "fake_0:2, InfiniBand 2001::2 (GID 1)"),
        ("infiniband", "fake_0", 0, "fake_0:2"),
        ("infiniband", "fake_0:2", 0, "fake_0:2"),
        ("infiniband", "fake_0:1", -errno.ENETDOWN, "no port of the RDMA device fake_0:1 is active"),
        ("infiniband", "fake", -errno.ENODEV, "no RDMA device fake: GPUDISAGG_RDMA_DEVICE names it"),
        ("infiniband", "fake_00", -errno.ENODEV, "no RDMA device fake_00"),
    ],
)
def test_the_device_is_found_or_it_says_why_not(
    prober: Path, fakes: Path, machine: str, wanted: str | None, rc: int, says: str
) -> None:
    choice = {} if wanted is None else {"GPUDISAGG_RDMA_DEVICE": wanted}
    got, text = probe(prober, LD_LIBRARY_PATH=os.fspath(fakes / "whole"), FAKE_VERBS=machine, **choice)
    assert (got, says in text) == (rc, True), text


@needs_header
@pytest.mark.parametrize("machine", ["none", "closed", "down"])
def test_a_worker_without_a_device_refuses_before_it_sends_anything(
    prober: Path, fakes: Path, machine: str
) -> None:
    fake = {"LD_LIBRARY_PATH": os.fspath(fakes / "whole"), "FAKE_VERBS": machine}
    rc, text = probe(prober, "accept", **fake)
    assert (rc, text) == (-errno.ENOTSUP, probe(prober, **fake)[1])


@needs_header
def test_tables_of_registered_memory_do_as_their_model(tmp_path: Path) -> None:
    binary = sanitized.build("verbs_memory", "address", sanitized.TRANSPORT, tmp_path)
    for seed in range(1, 6):
        sanitized.run(binary, str(seed), "40")
