"""What the documents say is so: the README's example runs; a client can be written from protocol.md alone."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import server

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE = 60.0


def test_the_example_of_the_readme_runs_as_it_stands() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 15
    ran = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[:3] == ["[0.000000e+00", "2.000000e+00", "4.000000e+00"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [target for target in targets if target and not (document.parent / target).exists()]
    assert not missing


def test_the_protocol_page_has_every_op_status_and_limit_of_the_wire() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    wire = (ROOT / "csrc" / "transport" / "wire.h").read_text(encoding="utf-8")
    for kind in ("OP", "STATUS"):
        for name, value in re.findall(rf"#define GPUD_{kind}_(\w+) (\d+)", wire):
            assert f"| {value} | {name} |" in text, f"{kind} {name} = {value}"
    for name, value in re.findall(r"#define GPUD_FEATURE_(\w+) (\d+)", wire):
        assert f"| {value} | {name} |" in text


class Client:
    """A client written from docs/protocol.md alone: nothing of this project is imported here.

    It only ever sends what fits one slot, and never wraps its ring.
    """

    HEAD = 16
    COMMANDS = 640  # where the command ring begins

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        name = b"page"
        hello = struct.pack("<HHIQQQ", 1, 1, 30_000, 2, 1 << 24, 1 << 24)  # offers HOST_MAP
        self.socket.sendall(struct.pack("<IHHII", 0x44555047, 1, 0, 48 + len(name), len(name)) + hello + name)
        head, self.fd = self._receive_with_fd(16)
        magic, kind, _, size, text = struct.unpack("<IHHII", head)
        assert (magic, kind) == (0x44555047, 2), "no WELCOME"
        body = self._receive(size - 16)
        self.device = body[len(body) - text :].decode()
        (self.version, self.warp, self.command_slots, self.reply_slots, self.granularity) = (
            struct.unpack_from("<HHIII", body, 0)
        )
        self.features, self.session, self.window, self.window_size, self.memory = struct.unpack_from(
            "<5Q", body, 16
        )
        used = self.COMMANDS + 64 * (self.command_slots + self.reply_slots)
        whole = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        assert os.fstat(self.fd).st_size == whole
        sealed = fcntl.fcntl(self.fd, fcntl.F_GET_SEALS)
        assert sealed & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        self.shared = mmap.mmap(self.fd, whole)
        os.close(self.fd)
        self.words = memoryview(self.shared).cast("Q")
        self.sent = 0
        self.replied = 0

    def _receive(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            part = self.socket.recv(size - len(got))
            assert part, "the server hung up"
            got += part
        return got

    def _receive_with_fd(self, size: int) -> tuple[bytes, int]:
        fds = array.array("i")
        data, control, _, _ = self.socket.recvmsg(size, socket.CMSG_LEN(fds.itemsize))
        for level, kind, bytes_ in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(bytes_)
        return data + self._receive(size - len(data)), fds[0]

    def post(self, op: int, body: bytes) -> int:
        size = self.HEAD + len(body)
        assert size <= 64
        assert self.sent < self.command_slots
        at = self.COMMANDS + 64 * self.sent
        self.shared[at + 8 : at + size] = struct.pack("<II", 0, self.sent + 1) + body
        # x86 keeps the order of stores: the first word, in one store and last, is the release asked for.
        self.words[at // 8] = 1 | size << 32 | op << 48
        self.sent += 1
        return self.sent

    def wait(self, sequence: int) -> None:
        end = time.monotonic() + PATIENCE
        while (
            self.words[512 // 8] < sequence
        ):  # the worker looks by itself within 400 ms: waking it is a courtesy
            assert time.monotonic() < end, "never completed"

    def reply(self) -> tuple[int, bytes]:
        at = self.COMMANDS + 64 * (self.command_slots + self.replied)
        end = time.monotonic() + PATIENCE
        while self.words[at // 8] & 0xFFFFFFFF != 1:
            assert time.monotonic() < end, "no reply"
        size, op = self.words[at // 8] >> 32 & 0xFFFF, self.words[at // 8] >> 48 & 0xFF
        self.replied += -(-size // 64)
        return op, self.shared[at + 16 : at + size]

    def region(self, number: int, size: int, address: int = 0) -> mmap.mmap:
        fd = os.memfd_create("page", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        memory = mmap.mmap(fd, size)
        self.socket.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        self.post(2, struct.pack("<IIQQ", number, 3, size, address))
        return memory

    def close(self) -> None:
        self.wait(self.post(63, b""))
        self.socket.close()


KERNEL = b"""
extern "C" __global__ void scale(float *x, float a) { x[threadIdx.x] *= a; }
"""


@pytest.mark.skipif(sys.byteorder != "little" or os.uname().machine != "x86_64", reason="x86 store order")
def test_a_client_written_from_the_protocol_page_alone_runs_a_kernel() -> None:
    with server.running() as served:
        client = Client(served.address.removeprefix("unix://"))
        assert client.version == 1
        assert "cpu" in client.device
        assert client.features & ~2 == 0, "granted what was not offered"
        values = struct.pack("<4f", 1, 2, 3, 4)

        client.post(16, struct.pack("<QQ", client.window, client.granularity))  # MAP
        client.post(22, struct.pack("<Q", client.window) + values)  # WRITE
        shared = client.region(7, mmap.PAGESIZE)
        shared[1024 : 1024 + len(KERNEL)] = KERNEL
        client.post(32, struct.pack("<IIQQ", 5, 7, 1024, len(KERNEL)))  # MODULE_LOAD

        op, body = client.reply()
        module, kernel, params, size, _, threads, name = struct.unpack_from("<IHHIIII", body)
        assert (op, module, kernel, params, size) == (128, 5, 0, 2, 12)  # KERNEL_INFO
        assert struct.unpack_from("<8H", body, 24) == (0, 8, 0, 0, 8, 4, 1, 0)
        assert body[len(body) - name :] == b"scale"
        assert threads >= 4
        op, body = client.reply()
        assert (op, *struct.unpack_from("<IIII", body)) == (130, 5, 0, 1, 0)  # MODULE_STATUS

        launch = struct.pack("<IHH3I3HHI", 5, 0, 12, 1, 1, 1, 4, 1, 1, 0, 0)
        client.post(34, launch + struct.pack("<Qf", client.window, 10.0))
        done = client.post(19, struct.pack("<QQQII", client.window, 0, 16, 7, 0))  # COPY_OUT
        client.wait(done)
        assert struct.unpack_from("<4f", shared, 0) == (10, 20, 30, 40)

        failing = client.post(18, struct.pack("<QQQII", client.window, 0, 16, 99, 0))  # COPY_IN of no region
        client.wait(failing)
        op, body = client.reply()
        sequence, status, failed = struct.unpack_from("<QII", body)
        assert (op, sequence, status, failed) == (132, failing, 7, 18)  # FAULT, NOT_FOUND
        assert body[48:].decode()
        client.close()
