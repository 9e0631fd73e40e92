"""Processes for the tests, in a role each: `python -m tests.transport.peers ROLE ADDRESS ...`.

They say on standard output how far they are, so that nobody has to guess by the clock.
"""

from __future__ import annotations

import os
import sys

import numpy as np

import transport


def say(*words: object) -> None:
    print(*words, flush=True)


def flood(address: str) -> None:
    """Sends numbered messages for ever."""
    with transport.connect(address) as connection:
        say("connected")
        n = 0
        while True:
            connection.send(n.to_bytes(8, "little") * (n % 40 + 1))
            n += 1


def idle(address: str) -> None:
    """Connects, sends one message, and does nothing until its standard input ends."""
    with transport.connect(address) as connection:
        connection.send(b"here")
        say("connected")
        sys.stdin.read()


def listen_for(address: str, what: str) -> None:
    """Accepts one client. "sink": receives for ever; "deaf": receives nothing; "echo": sends everything
    back.
    """
    with transport.listen(address) as listener:
        say("listening", listener.address)
        with listener.accept(60) as connection:
            say("accepted")
            if what == "deaf":
                sys.stdin.read()
                return
            try:
                while True:
                    data = connection.recv(60)
                    if what == "echo":
                        connection.send(data)
            except transport.PeerGone:
                say("gone")


def wait_in(address: str, what: str) -> None:
    """Waits in `what` until interrupted, and says with which exception that ended."""
    try:
        if what == "connect":
            say("waiting")
            transport.connect(address, timeout=100)
        with transport.connect(address) as connection:
            say("waiting")
            if what == "receive":
                connection.receive(100)
            elif what == "wait":
                connection.wait(connection.send(b""), 100)
            elif what == "post":
                connection.timeout = 100
                while True:
                    connection.send(bytes(8000))
    except BaseException as error:
        say(type(error).__name__)


def remember(address: str) -> None:
    """Puts bytes into a region, and later says what the other side has made of them."""
    with transport.connect(address) as connection:
        region = connection.create_region(1 << 16)
        region.array[:] = np.arange(1 << 16).astype(np.uint8)
        connection.send(region.number.to_bytes(4, "little"))
        connection.recv(60)
        say(int(region.array.astype(np.int64).sum()))


def fork_child(address: str) -> None:
    """Forks with an open connection: the child's is closed, the parent's goes on, also after the child has
    ended.
    """
    with transport.connect(address) as connection:
        region = connection.create_region(4096)
        connection.send(b"before")
        child = os.fork()
        if child == 0:
            status = 0
            for use in (
                lambda: connection.send(b"child"),
                lambda: connection.receive(5),
                lambda: connection.posted,
            ):
                try:
                    use()
                    status = 1
                except transport.Closed:
                    pass
            connection.close()
            region.drop()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        say("child", os.waitstatus_to_exitcode(status))
        connection.send(b"after")
        say("answer", connection.recv(60).decode())


ROLES = {
    "flood": flood,
    "idle": idle,
    "listen": listen_for,
    "wait": wait_in,
    "remember": remember,
    "fork": fork_child,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
