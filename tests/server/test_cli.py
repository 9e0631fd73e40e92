"""The command line: everything says what it does, and fails with a reason and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpudisagg._version import __version__
from gpudisagg.server.config import OPTIONS
from tests.server.process import Server
from transport import wire

Start = Callable[..., Server]


def run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpudisagg", *args],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "COLUMNS": "200", **environ},
        check=False,
    )


def test_help_names_every_command() -> None:
    said = run("--help")
    assert said.returncode == 0
    for command in ("serve", "demo", "doctor", "version"):
        assert f"\n  {command} " in said.stdout


def test_help_of_serve_tells_every_option_its_variable_and_its_default() -> None:
    said = " ".join(run("serve", "--help").stdout.split())
    for option in OPTIONS:
        assert option.flag in said
        assert f"[env: {option.environment}; default: {option.shown_default}]" in said
    assert "--config" in said and "--until-closed" in said


def test_version() -> None:
    said = run("version")
    assert said.stdout == f"gpudisagg {__version__}, wire version {wire.VERSION}\n"


def test_the_command_line_imports_a_command_only_when_it_is_asked_for() -> None:
    heavy = "[m for m in sys.modules if 'server' in m or m in ('asyncio', 'llvmlite')]"
    code = f"import sys, gpudisagg.cli; print({heavy})"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (
            ["--listen", "http://0.0.0.0:1"],
            "--listen: 'http://0.0.0.0:1': no transport http://; there is unix://",
        ),
        (["--listen", "tcp://0.0.0.0:1"], "listen on 127.0.0.1, or say --allow-network"),
        (
            ["--listen", "unix:///x", "--tls-ca", "/ca.pem"],
            "--tls-key and --tls-ca are for TLS: give --tls-cert too",
        ),
        (["--listen", "unix:///x", "--memory", "much"], "--memory: 'much' is no size"),
        (
            ["--listen", "unix:///x", "--config", "/nowhere.toml"],
            "cannot read the configuration /nowhere.toml",
        ),
        (
            ["--listen", "unix:///x", "--until-closed", "99"],
            "--until-closed 99: no such descriptor was inherited",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_status_2_and_a_reason(args: list[str], reason: str) -> None:
    said = run("serve", *args)
    assert said.returncode == 2
    assert said.stdout == ""
    assert said.stderr.startswith("gpudisagg serve: ")
    assert reason in said.stderr
    assert "Traceback" not in said.stderr


def test_a_live_servers_address_is_refused_and_left_alone(start: Start) -> None:
    server = start("--workers", "1")
    said = run("serve", "--listen", server.address)
    assert said.returncode == 1
    assert "a server is listening on" in said.stderr.splitlines()[-1]
    assert "Traceback" not in said.stderr
    assert server.until_warm()["pids"]


def test_a_file_that_is_no_socket_is_not_replaced(short_path: Path) -> None:
    (short_path / "s.sock").write_text("mine")
    said = run("serve", "--listen", f"unix://{short_path}/s.sock")
    assert said.returncode == 1
    assert "no socket" in said.stderr
    assert (short_path / "s.sock").read_text() == "mine"


def test_a_folder_that_is_not_there_is_a_reason(short_path: Path) -> None:
    said = run("serve", "--listen", f"unix://{short_path}/none/s.sock")
    assert said.returncode == 1
    assert "No such file or directory" in said.stderr
    assert "Traceback" not in said.stderr


def test_settings_from_the_file_and_the_environment_reach_the_server(start: Start, short_path: Path) -> None:
    file = short_path / "server.toml"
    file.write_text('workers = 3\nmemory = "48MiB"\n')
    server = start("--config", str(file), environ={"GPUDISAGG_WORKERS": "1"})
    assert server.until_warm()["workers"] == {"starting": 0, "warm": 1, "busy": 0, "doubtful": 0}
    with server.hello(memory=49 << 20) as client:
        client.settimeout(60)
        assert b"48 MiB" in client.recv(4096)


def test_doctor_tries_things_and_says_what_it_found(short_path: Path) -> None:
    said = run("doctor", "--json", XDG_CACHE_HOME=str(short_path))
    report = json.loads(said.stdout)
    found = {finding["what"]: finding for finding in report["findings"]}
    assert report["version"] == __version__
    assert said.returncode == (0 if report["ok"] else 1)
    assert {finding["state"] for finding in found.values()} <= {"ok", "absent", "broken"}
    for what in ("host", "transport extension", "sealed memfd", "cpu device"):
        assert found[what]["state"] == "ok", found[what]
    cache = short_path / "gpudisagg" / "code"
    assert str(cache) in found["code cache"]["detail"]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert all(finding["detail"] for finding in found.values())


def test_doctor_asks_a_server_and_is_honest_about_one_that_is_not_there(
    start: Start, short_path: Path
) -> None:
    server = start("--workers", "1", "--memory", "64MiB")
    said = run("doctor", "--address", server.address)
    assert f"server {server.address}" in said.stdout
    assert "64 MiB of device memory" in said.stdout
    said = run("doctor", "--address", f"unix://{short_path}/none.sock")
    assert said.returncode == 1
    assert "nobody listens on" in said.stdout
