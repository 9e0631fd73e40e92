"""Kernel TLS: what tcp with TLS is built on, where there is one."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TCP_ULP = 31
SOL_TLS = 282
TLS_TX, TLS_RX = 1, 2
TLS_1_2 = 0x0303
AES_GCM_128, AES_GCM_256 = 51, 52
OP_ENABLE_KTLS = 1 << 3  # a name in ssl since 3.12


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=20)
        theirs, _ = listener.accept()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A key and a certificate of its own, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no certificate without openssl: apt-get install openssl")
    file = tmp_path / "identity.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=guest"
    command = [*request.split(), "-keyout", os.fspath(file), "-out", os.fspath(tmp_path / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    file.write_text(file.read_text() + (tmp_path / "certificate.pem").read_text())
    return file


def offloaded(sock: socket.socket, direction: int) -> tuple[int, ...]:
    """TLS version and cipher of what the kernel does with this direction."""
    return struct.unpack("=HH", socket.socket.getsockopt(sock, SOL_TLS, direction, 4))


def test_the_kernel_encrypts_what_is_written(connected: tuple[socket.socket, socket.socket]) -> None:
    """With keys of our own: what one end writes is a record on the wire, which the other's kernel opens."""
    sender, receiver = connected
    keys = struct.pack("=HH8s16s4s8s", TLS_1_2, AES_GCM_128, bytes(8), b"sixteen byte key", b"salt", bytes(8))
    sender.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    sender.setsockopt(SOL_TLS, TLS_TX, keys)
    sender.sendall(b"a secret")
    record = receiver.recv(100, socket.MSG_PEEK)
    assert record[:3] == b"\x17\x03\x03"
    assert b"a secret" not in record
    receiver.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    receiver.setsockopt(SOL_TLS, TLS_RX, keys)
    assert receiver.recv(100) == b"a secret"


def test_openssl_hands_both_directions_to_the_kernel(
    connected: tuple[socket.socket, socket.socket], identity: Path
) -> None:
    """A handshake of TLS 1.2 in OpenSSL; then plain sends and receives on the descriptor are encrypted.

    (Of TLS 1.3, OpenSSL before 3.2 hands over only what is sent.)
    """

    def context(protocol: int) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.check_hostname = False
        made.load_cert_chain(identity)
        made.load_verify_locations(identity)
        made.verify_mode = ssl.CERT_REQUIRED
        made.maximum_version = ssl.TLSVersion.TLSv1_2
        made.set_ciphers("ECDHE+AESGCM")
        made.options |= OP_ENABLE_KTLS
        return made

    client, server = connected
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        accepting = thread.submit(context(ssl.PROTOCOL_TLS_SERVER).wrap_socket, server, server_side=True)
        ours = context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(client)
        theirs = accepting.result(20)
    with ours, theirs:
        try:
            assert offloaded(ours, TLS_TX) == (TLS_1_2, AES_GCM_256)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip(f"{ssl.OPENSSL_VERSION} is built without kernel TLS")
        for end in ours, theirs:
            for direction in TLS_TX, TLS_RX:
                assert offloaded(end, direction) == (TLS_1_2, AES_GCM_256)
        plain = socket.socket  # its methods pass by OpenSSL
        plain.sendall(ours, b"from us")
        assert plain.recv(theirs, 100) == b"from us"
        plain.sendall(theirs, b"from them")
        assert plain.recv(ours, 100) == b"from them"
