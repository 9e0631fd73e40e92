"""Sessions over TLS that the kernel carries: who gets in by which certificate, and that nothing goes in the
clear.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rdma.inside.relay import relayed
from tests.rdma.inside.serving import PATIENCE, serving

pytestmark = pytest.mark.timeout(300)  # starting a server in the guest is slow


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=PATIENCE)


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *new_key, "-days", 2, "-subj", f"/CN={name}", "-keyout", self.key,
                "-out", self.certificate)  # fmt: skip

    def sign(self, name: str) -> Path:
        """A key and a certificate for it, good for 127.0.0.1, in one file."""
        key, request, file = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "both.pem"))
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-days", 2,
                "-set_serial", 1, "-extfile", extensions, "-out", file)  # fmt: skip
        file.write_text(key.read_text() + file.read_text())
        return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no certificates without openssl: apt-get install openssl")
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture(scope="module")
def address(ours: Authority) -> Iterator[str]:
    """Of a server that lets in whom `ours` has signed."""
    tls = ("--tls-cert", ours.sign("server"), "--tls-ca", ours.certificate)
    with serving("tcp://127.0.0.1:0", options=tls) as (where,):
        yield where


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """Of a server that speaks no TLS."""
    with serving("tcp://127.0.0.1:0") as (where,):
        yield where


def client(authority: Authority, identity: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=os.fspath(authority.certificate))
    if identity is not None:
        context.load_cert_chain(identity)
    return context


@pytest.mark.parametrize("scheme", ["tcp", "auto"])
def test_a_session_whose_bytes_the_kernel_encrypts(scheme: str, address: str, ours: Authority) -> None:
    import numpy as np

    import gpudisagg

    context = client(ours, ours.sign("function"))
    where = address.replace("tcp", scheme, 1)
    with gpudisagg.connect(where, tls=context, timeout=PATIENCE) as gpu:
        assert gpu.capabilities.transport == "tcp"
        data = np.random.default_rng(1).random(1 << 17)
        array = gpu.asarray(data)
        assert np.array_equal(array.get(), data)
        host = gpu.host_array(data + 1)
        array.set(host)
        assert np.array_equal(array.get(), data + 1)
        gpu.synchronize()
    assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED  # as it was


def test_who_shows_no_certificate_does_not_get_in(address: str, ours: Authority) -> None:
    import gpudisagg

    with pytest.raises(gpudisagg.SessionRefused):
        gpudisagg.connect(address, tls=client(ours, None), timeout=PATIENCE)


def test_who_shows_another_authoritys_does_not_get_in(address: str, ours: Authority, folder: Path) -> None:
    import gpudisagg

    theirs = Authority(folder, "theirs")
    with pytest.raises(gpudisagg.SessionRefused):
        gpudisagg.connect(address, tls=client(ours, theirs.sign("stranger")), timeout=PATIENCE)


def test_a_server_that_is_not_who_it_should_be_is_not_spoken_to(address: str, folder: Path) -> None:
    import gpudisagg

    theirs = Authority(folder, "others")
    with pytest.raises(gpudisagg.SessionRefused, match="TLS handshake failed"):
        gpudisagg.connect(address, tls=client(theirs, theirs.sign("me")), timeout=PATIENCE)


def test_who_speaks_no_tls_to_it_is_hung_up_on(address: str) -> None:
    import gpudisagg

    with pytest.raises(gpudisagg.SessionRefused, match="it may want TLS"):
        gpudisagg.connect(address, timeout=PATIENCE)


def test_a_context_that_insists_on_what_the_kernel_is_not_given_is_refused(
    address: str, ours: Authority
) -> None:
    import gpudisagg

    if ssl.OPENSSL_VERSION_INFO[:2] >= (3, 2):
        pytest.skip(f"{ssl.OPENSSL_VERSION} gives the kernel all keys of TLS 1.3")
    context = client(ours, ours.sign("modern"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(gpudisagg.TlsUnavailable, match=r"allow TLS 1\.2"):
        gpudisagg.connect(address, tls=context, timeout=PATIENCE)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")  # a cipher that kernels do not know
    with pytest.raises(gpudisagg.SessionRefused):
        gpudisagg.connect(address, tls=context, timeout=PATIENCE)


SECRET = b"what nobody on the way is to read. "


@pytest.mark.parametrize("encrypted", [True, False])
def test_nothing_that_is_sent_can_be_read_on_the_way(
    encrypted: bool, request: pytest.FixtureRequest, ours: Authority
) -> None:
    """Neither what goes up nor what comes down, nor the messages between; without TLS all of it can."""
    import numpy as np

    import gpudisagg

    where = request.getfixturevalue("address" if encrypted else "plain")
    context = client(ours, ours.sign("seen")) if encrypted else None
    up = np.frombuffer(SECRET * 4096, np.uint8)
    with relayed(int(where.rpartition(":")[2])) as relay:
        with gpudisagg.connect(
            f"tcp://127.0.0.1:{relay.port}", tls=context, name="a telling name", timeout=PATIENCE
        ) as gpu:
            array = gpu.asarray(up)
            assert array.get().tobytes() == up.tobytes()
            small = gpu.asarray(up[: len(SECRET)])  # as an immediate, perhaps
            assert small.get().tobytes() == SECRET
        seen = relay.seen
    assert len(seen) > 2 * up.nbytes
    for telling in (SECRET, b"a telling name", b"GPUD"):
        assert (telling in seen) != encrypted
    assert seen[0] == (0x16 if encrypted else ord("G"))  # a handshake's record; a frame


def test_who_speaks_tls_to_a_server_that_does_not_is_told(plain: str, ours: Authority) -> None:
    import gpudisagg

    with pytest.raises(gpudisagg.SessionRefused, match="TLS handshake"):
        gpudisagg.connect(plain, tls=client(ours, ours.sign("hopeful")), timeout=PATIENCE)
    with gpudisagg.connect(plain, timeout=PATIENCE) as gpu:  # it has not minded
        assert gpu.zeros(4).get().tolist() == [0, 0, 0, 0]


def test_a_relay_that_changes_a_byte_ends_the_session(address: str, ours: Authority) -> None:
    """A record that was tampered with is no data: the kernel says so, and the session is lost."""
    import numpy as np

    import gpudisagg

    context = client(ours, ours.sign("tampered"))
    with relayed(int(address.rpartition(":")[2])) as relay:
        gpu = gpudisagg.connect(f"tcp://127.0.0.1:{relay.port}", tls=context, timeout=PATIENCE)
        gpu.synchronize()
        relay.tamper()
        with pytest.raises(gpudisagg.SessionLost):
            gpu.asarray(np.zeros(1 << 16, np.uint8)).get()
        gpu.close()
    with gpudisagg.connect(address, tls=context, timeout=PATIENCE) as gpu:
        assert gpu.zeros(4).get().tolist() == [0, 0, 0, 0]
