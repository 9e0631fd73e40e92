"""Where the kernel cannot carry TLS there is no session: not one byte of one goes out in the clear."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import gpudisagg
from transport import tls


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A key and its certificate for 127.0.0.1, in one file."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=here"
    request += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    try:
        subprocess.run(request.split(), check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no certificate without openssl: apt-get install openssl")
    both = tmp_path / "both.pem"
    both.write_text(key.read_text() + certificate.read_text())
    return both


def heard_by(server: Callable[[socket.socket], bytes], context: ssl.SSLContext) -> bytes:
    """What a client that wants TLS says to `server`, and TlsUnavailable is what comes of it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            connection.settimeout(60)
            with connection:
                heard.append(server(connection))

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            with pytest.raises(gpudisagg.TlsUnavailable):
                gpudisagg.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}", tls=context, timeout=60)
        finally:
            thread.join(60)
    return heard[0]


def to_its_end(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(4096):
        data += part
    return data


def test_where_the_kernel_has_no_tls_nothing_is_said_at_all(identity: Path) -> None:
    if not tls.available():
        pytest.skip("this kernel has TLS: the guest's tests try what comes of it")
    context = ssl.create_default_context(cafile=str(identity))
    assert heard_by(to_its_end, context) == b""


def test_keys_that_did_not_reach_the_kernel_are_noticed_after_the_handshake(
    identity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an OpenSSL that was built without kernel TLS: the handshake is good, the socket plain."""
    if not tls.available():
        pytest.skip("this kernel has TLS")
    # A kernel that seems to have it when asked before, and has not when the keys are to go there.
    answers = [tls.available(), ""]
    monkeypatch.setattr(tls, "available", lambda: answers.pop() if len(answers) > 1 else answers[0])
    context = ssl.create_default_context(cafile=str(identity))

    def server(connection: socket.socket) -> bytes:
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(identity)
        raw = connection.dup()
        with raw, ours.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as secured:
            assert secured.version() is not None  # the handshake was whole
            socket.socket.settimeout(raw, 60)
            return to_its_end(raw)  # what follows it on the wire, as it is

    assert b"GPUD" not in heard_by(server, context)


@pytest.mark.parametrize("scheme", ["tcp", "auto"])
def test_who_speaks_no_tls_to_a_server_that_wants_it_is_told_of_it(identity: Path, scheme: str) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(identity)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                connection.settimeout(60)
                ours.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(gpudisagg.SessionRefused, match="it may want TLS"):
            gpudisagg.connect(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", timeout=60)
        thread.join(60)
