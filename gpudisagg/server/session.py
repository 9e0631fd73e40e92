"""One session, as the worker serves it: the engine runs its commands, this compiles its modules and frees
them.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading

from gpudisagg.device import CompileError, LoadedModule
from gpudisagg.device.cpu.compiler import CpuCompiler
from gpudisagg.server.engine import Engine, Run
from gpudisagg.server.handoff import Ended, Job
from transport import bootstrap, wire
from transport.errors import DeadlineExceeded, PeerGone, ProtocolError, TransportError

log = logging.getLogger("gpudisagg.session")

HANDSHAKE_TIMEOUT = 10.0
_LAST_WORDS = {
    Run.INTERRUPTED: (wire.STATUS_SHUTDOWN, "the server is shutting down; connect again once it is back"),
    Run.PROTOCOL: (wire.STATUS_PROTOCOL, "the client broke the protocol, or does not take its replies"),
}


class Session:
    """Serves one job from handshake to scrubbing. `stopping`: set, and the engine interrupted, when the
    server goes away.
    """

    def __init__(self, engine: Engine, compiler: CpuCompiler, job: Job, stopping: threading.Event) -> None:
        self._engine = engine
        self._compiler = compiler
        self._job = job
        self._stopping = stopping
        self._modules: dict[int, LoadedModule] = {}

    def serve(self, client: int) -> Ended:
        """`client`: the connected socket, owned by this session. Returns when it is over and cleaned up."""
        job = self._job
        try:
            self._attach(client)
        except TransportError as error:
            theirs = isinstance(error, PeerGone | DeadlineExceeded | ProtocolError)
            theirs = theirs or error.errno == errno.ENOTSUP
            return Ended(job.session, f"no handshake: {error}", reusable=theirs)
        sound = True
        try:
            why = self._run()
            reason = why.name.lower()
            status, text = _LAST_WORDS.get(why, (wire.STATUS_OK, ""))
        except Exception as error:
            log.exception("session %d: the worker failed", job.session)
            reason, sound = f"internal error: {error}", False
            status, text = wire.STATUS_INTERNAL, f"the server failed, which is its own fault: {error}"
        stats = self._engine.stats()
        try:
            sound = self._engine.detach(status, text) and sound
        except TransportError:
            log.exception("session %d: cannot be taken down", job.session)
            sound = False
        self._free_modules()
        return Ended(job.session, reason, sound and not self._modules, stats)

    def _attach(self, client: int) -> None:
        """TransportError: there is no session. Where that is for want of what the client's transport takes,
        the client has been told.
        """
        job = self._job
        with socket.socket(fileno=os.dup(client)) as spare:  # for last words: the engine closes its own
            try:
                self._engine.attach(
                    client,
                    bytes.fromhex(job.hello),
                    job.session,
                    job.memory,
                    job.host_memory,
                    HANDSHAKE_TIMEOUT,
                )
            except TransportError as error:
                if error.errno == errno.ENOTSUP:
                    reason = f"the server's host cannot do this transport ({error}); use another: auto://"
                    bootstrap.refuse(spare, wire.STATUS_UNSUPPORTED, reason)
                raise

    def _run(self) -> Run:
        while not self._stopping.is_set():
            why = self._engine.run()
            self._free_modules()
            if why is not Run.COMPILE:
                return why
            try:
                self._compile()
            except PeerGone:
                return Run.GONE
            except DeadlineExceeded:  # it did not take the answer
                return Run.PROTOCOL
        return Run.INTERRUPTED

    def _free_modules(self) -> None:
        for module in self._engine.unloaded():
            if (loaded := self._modules.pop(module, None)) is not None:
                loaded.close()

    def _compile(self) -> None:
        """Answers the MODULE_LOAD that waits: whatever the image, the client gets a module or the reason."""
        image = self._engine.image()
        try:
            loaded = self._compiler.load(image.data, options=image.options, name=f"module{image.module}")
        except CompileError as error:
            self._engine.fail(wire.STATUS_COMPILE, f"{error}\n{error.log}" if error.log else str(error))
        except MemoryError:
            self._engine.fail(
                wire.STATUS_OUT_OF_MEMORY, "the GPU host has no memory left to compile this module"
            )
        except Exception as error:
            log.exception("session %d: the compiler failed on %d bytes", self._job.session, len(image.data))
            self._engine.fail(
                wire.STATUS_INTERNAL, f"the compiler failed, which is the server's fault: {error!r}"
            )
        else:
            self._commit(image.module, loaded)

    def _commit(self, module: int, loaded: LoadedModule) -> None:
        self._modules[module] = loaded
        try:
            self._engine.commit(loaded.kernels, loaded.globals)
        except (PeerGone, DeadlineExceeded):
            raise  # the engine has the module, and gives it back when the session is over
        except TransportError as error:
            del self._modules[module]
            loaded.close()
            if error.errno == errno.EDQUOT:
                self._engine.fail(
                    wire.STATUS_OUT_OF_MEMORY, "its variables are more than the session's memory limit"
                )
                return
            self._engine.fail(wire.STATUS_UNSUPPORTED, f"the module is more than can be described: {error}")
