"""Who may have a session, and with how much: decisions on values, without sockets or clocks."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gpudisagg.server.config import ServerConfig
from gpudisagg.sizes import format_size
from transport import wire
from transport.bootstrap import check_version
from transport.errors import Refused

RETRY_MS = 1000


@dataclass(frozen=True)
class Grant:
    """What a session may have, in bytes, and how long its client will wait for a worker, in seconds."""

    memory: int
    host_memory: int
    wait: float


def check_user(uid: int | None, config: ServerConfig) -> None:
    """The daemon's own user, root, and those it was told may use it. Refused: any other, and one that the
    kernel doesn't know (None).
    """
    if uid is None:
        raise Refused(
            wire.STATUS_DENIED,
            "this server lets in processes of its own host only, and this connection is from elsewhere; "
            "its operator can allow that: --allow-network",
        )
    if uid not in (os.geteuid(), 0) and uid not in config.allow_uid:
        raise Refused(
            wire.STATUS_DENIED,
            f"user {uid} may not use this server; its operator can allow it: --allow-uid {uid}",
        )


def admit(hello: wire.Hello, config: ServerConfig) -> Grant:
    """What a client gets. Refused: no common version, or more memory asked for than a session may have."""
    check_version(hello)
    for kind, asked, limit, setting in (
        ("device", hello.memory, config.memory, "--memory, GPUDISAGG_MEMORY"),
        ("host", hello.host_memory, config.host_memory, "--host-memory, GPUDISAGG_HOST_MEMORY"),
    ):
        if asked > limit:
            raise Refused(
                wire.STATUS_OUT_OF_MEMORY,
                f"the session asks for {format_size(asked)} of {kind} memory ({asked} bytes), "
                f"a session here gets at most {format_size(limit)} ({limit} bytes); "
                f"ask for less, or have the server started with more ({setting})",
            )
    return Grant(
        hello.memory or config.memory,
        hello.host_memory or config.host_memory,
        min(hello.deadline_ms / 1000, config.queue_timeout),
    )


def busy(reason: str) -> Refused:
    return Refused(
        wire.STATUS_BUSY,
        f"{reason}; try again, or have the server started with more (--workers)",
        RETRY_MS,
    )


def shutting_down() -> Refused:
    return Refused(
        wire.STATUS_SHUTDOWN, "the server is shutting down; connect again once it is back", RETRY_MS
    )
