"""TLS that the kernel carries: Python shakes hands, from then on the socket's plain bytes are records.

So the C path above stays as it is, and nothing of it knows of TLS. It needs three things: the kernel's tls
module, an OpenSSL that hands its keys to it, and a cipher that the kernel knows, in both directions. Where
one is missing there is no session: a socket whose keys did not reach the kernel would carry plain text.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket as sockets
import ssl
import threading
import time
from pathlib import Path

from transport.errors import DeadlineExceeded, PeerGone, TlsUnavailable, TransportError

__all__ = ["OPENSSL", "Handshake", "available", "secure_client", "server_context"]

OPENSSL = ssl.OPENSSL_VERSION
_TCP_ULP = getattr(sockets, "TCP_ULP", 31)
_SOL_TLS, _TLS_TX, _TLS_RX = 282, 1, 2
_CRYPTO_INFO = 4  # bytes: version and cipher, where no more is asked
# ssl.OP_ENABLE_KTLS has a name since Python 3.12; OpenSSL has it since 3.0.
_ENABLE_KTLS = 1 << 3
# Before this version of OpenSSL the kernel gets no keys to receive TLS 1.3 with.
_RECEIVES_1_3 = (3, 2)
_changing = threading.Lock()  # contexts, for a moment, as they are read by the sockets made of them


def available() -> str:
    """Why this kernel cannot carry TLS, "" where it can: tried on a connection of this process's own."""
    try:
        with sockets.create_server(("127.0.0.1", 0)) as listener:
            with sockets.create_connection(listener.getsockname(), timeout=5.0) as one:
                one.setsockopt(sockets.IPPROTO_TCP, _TCP_ULP, b"tls")
    except OSError as error:
        return (
            f"this kernel has no TLS ({error.strerror}): it was built without CONFIG_TLS, or its module is "
            "not loaded (modprobe tls)"
        )
    return ""


def server_context(cert: Path, key: Path | None, ca: Path | None) -> ssl.SSLContext:
    """For a server: shows `cert`, and with `ca` takes only clients whose certificate that has signed.

    OSError: a file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # records that are no data, which nobody here would take
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:  # an SSLError is one
        raise OSError(error.errno, f"the certificate {cert} or its key cannot be used: {error}") from error
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise OSError(error.errno, f"the certificates in {ca} cannot be used: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Handshake:
    """The handshake on a connected socket, step by step, without ever waiting. Takes the socket.

    context: made to hand its keys to the kernel (OP_ENABLE_KTLS), otherwise as it is; the version is kept to
    TLS 1.2 where this OpenSSL cannot do that for 1.3.
    """

    def __init__(self, socket: sockets.socket, context: ssl.SSLContext, host: str | None) -> None:
        """`host`: whom the server's certificate must name; None on the server's side. TlsUnavailable: then
        the socket is still the caller's.
        """
        socket.setblocking(False)
        with _changing:
            highest = context.maximum_version
            context.options |= _ENABLE_KTLS
            if ssl.OPENSSL_VERSION_INFO[:2] < _RECEIVES_1_3:
                if context.minimum_version == ssl.TLSVersion.TLSv1_3:
                    raise TlsUnavailable(
                        f"the context allows TLS 1.3 only, which {OPENSSL} does not hand to the "
                        "kernel in both directions: allow TLS 1.2, or take an OpenSSL from 3.2 on"
                    )
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            try:
                self._socket = context.wrap_socket(
                    socket,
                    server_side=host is None,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                    server_hostname=host,
                )
            finally:
                context.maximum_version = highest

    def fileno(self) -> int:
        return self._socket.fileno()

    def step(self) -> int:
        """As far as it gets: select.POLLIN or POLLOUT to wait for, 0 when it is done. TransportError: it
        failed; PeerGone.
        """
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise PeerGone("the other side hung up in the TLS handshake: does it speak TLS?") from error
            raise TransportError(f"the TLS handshake failed: {_words(error)}") from error
        except OSError as error:
            raise PeerGone(f"the other side hung up in the TLS handshake ({error.strerror})") from error
        return 0

    def finish(self) -> sockets.socket:
        """The socket, non-blocking, whose plain bytes the kernel encrypts and decrypts. TlsUnavailable: it
        does not, and the socket is closed.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            cipher = self._socket.cipher()
            what = f"{cipher[1]} with {cipher[0]}" if cipher else "no cipher"
            if self._socket.pending():
                raise TlsUnavailable(
                    f"bytes came with the TLS handshake ({what}) that the kernel did not see"
                )
            for direction, name in ((_TLS_TX, "send"), (_TLS_RX, "receive")):
                self._check(direction, name, what)
            stack.pop_all()
        return sockets.socket(fileno=self._socket.detach())

    def _check(self, direction: int, name: str, what: str) -> None:
        try:
            sockets.socket.getsockopt(self._socket, _SOL_TLS, direction, _CRYPTO_INFO)
        except OSError as error:
            if error.errno == errno.EBUSY:  # the kernel has no keys for this direction
                why = f"{OPENSSL} did not let the kernel {name} {what}: TLS 1.2 with AES-GCM works everywhere"
            else:
                why = available() or f"{OPENSSL} was built without kernel TLS, or was told not to"
            raise TlsUnavailable(f"TLS cannot be carried by the kernel here: {why}") from error

    def close(self) -> None:
        """Hangs up, whatever state it is in. Twice is fine."""
        self._socket.close()


def secure_client(
    socket: sockets.socket, context: ssl.SSLContext, host: str, timeout: float
) -> sockets.socket:
    """The connection to `host` as one whose bytes the kernel encrypts; blocking. Takes the socket.

    TlsUnavailable, before anything is sent where that can be known; TransportError: a certificate is not
    accepted, or another failure; DeadlineExceeded, PeerGone.
    """
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        stack.callback(socket.close)
        if why := available():
            raise TlsUnavailable(f"TLS cannot be carried by the kernel here: {why}")
        handshake = Handshake(socket, context, host)
        stack.callback(handshake.close)
        poll = select.poll()
        while wanted := handshake.step():
            poll.register(handshake, wanted)
            remaining = end - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                raise DeadlineExceeded(f"no TLS handshake with {host} within {timeout:g} s")
        secured = handshake.finish()
        stack.pop_all()
    secured.setblocking(True)
    return secured


def _words(error: ssl.SSLError) -> str:
    said = getattr(error, "verify_message", "") or error.reason or error.strerror or str(error)
    return str(said)
