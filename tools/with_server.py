"""Runs a command beside a server of its own: `with_server.py [serve options] -- command ...`.

The server listens on a private socket, which the command finds in GPUDISAGG_ADDRESS; it ends with the
command, whose exit status is this program's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

READY_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0


def main() -> int:
    if "--" not in sys.argv[1:-1]:
        print("usage: with_server.py [serve options] -- command ...", file=sys.stderr)
        return 2
    split = sys.argv.index("--")
    options, command = sys.argv[1:split], sys.argv[split + 1 :]
    folder = tempfile.mkdtemp(prefix="gpudisagg-")
    alive, held = os.pipe()  # the server reads its end's end when this process dies, however it dies
    address = f"unix://{folder}/server.sock"
    try:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gpudisagg", "serve"),
                *("--listen", address, "--until-closed", str(alive), *options),
            ],
            stdout=subprocess.PIPE,
            pass_fds=(alive,),
            text=True,
        )
        os.close(alive)
        try:
            if not wait_until_ready(server):
                return 1
            return subprocess.run(
                command, env=dict(os.environ, GPUDISAGG_ADDRESS=address), check=False
            ).returncode
        except KeyboardInterrupt:
            return 130
        finally:
            stop(server)
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(server: subprocess.Popen[str]) -> bool:
    """Passes the server's first line on; False where it ended, or said nothing in time."""
    assert server.stdout is not None
    giving_up = threading.Timer(READY_TIMEOUT, server.kill)
    giving_up.start()
    line = server.stdout.readline()
    giving_up.cancel()
    if not line:
        print(
            f"with_server.py: the server ended with status {server.wait()} before it listened",
            file=sys.stderr,
        )
        return False
    print(line, end="", flush=True)
    # What it says later must not fill the pipe.
    threading.Thread(
        target=lambda out=server.stdout: [print(rest, end="") for rest in out], daemon=True
    ).start()
    return True


def stop(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        print(
            f"with_server.py: the server did not end within {STOP_TIMEOUT:g} s and is killed", file=sys.stderr
        )
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
