"""The daemon's settings: one table of options, and where their values come from.

Precedence: flag > environment (GPUDISAGG_<NAME>) > file (TOML, the option's name as key) > default.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpudisagg.sizes import parse_size
from transport import address

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ENVIRONMENT_PREFIX = "GPUDISAGG_"
DEVICES = ("cpu",)
LOG_LEVELS = ("debug", "info", "warning", "error")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the setting, where it came from and what would be
    right.
    """


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """All that a daemon needs to know. Sizes in bytes, times in seconds."""

    listen: tuple[str, ...]
    allow_network: bool
    tls_cert: Path | None
    tls_key: Path | None
    tls_ca: Path | None
    workers: int
    spares: int
    device: str
    memory: int
    host_memory: int
    threads: int
    cache_dir: Path
    allow_uid: tuple[int, ...]
    queue_timeout: float
    hello_timeout: float
    start_timeout: float
    grace: float
    max_pending: int
    log_level: str


def default_listen(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """Where a daemon listens that was not told: the system's runtime folder for root, the user's own
    otherwise.
    """
    if uid == 0:
        return ("unix:///run/gpudisagg.sock",)
    runtime = environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise ConfigError(
            "XDG_RUNTIME_DIR is not set: say where to listen, --listen unix:///absolute/path.sock"
        )
    return (f"unix://{runtime}/gpudisagg.sock",)


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Where compiled code is kept: $XDG_CACHE_HOME/gpudisagg/code, else ~/.cache/gpudisagg/code."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpudisagg" / "code"


def _address(value: Any) -> str:
    return str(address.parse(_text(value), listening=True))


def _size(value: Any) -> int:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no size; write bytes or a text like '4GiB'")
    size = parse_size(value)
    if size == 0:
        raise ValueError("must be more than 0 bytes")
    return size


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("1", "true", "yes", "on"):
        return True
    if str(value).lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _path(value: Any) -> Path:
    path = _text(value)
    if not path:
        raise ValueError("is empty; write a path")
    return Path(path).expanduser()


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"{value!r} is no whole number")
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"{value!r} is no whole number") from None
        if not low <= number <= high:
            raise ValueError(f"{number} is not between {low} and {high}")
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is no number of seconds")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is no number of seconds") from None
        if not low <= number <= high:  # also false for NaN
            raise ValueError(f"{number:g} s is not between {low:g} and {high:g}")
        return number

    return parse


def _choice(allowed: Sequence[str], what: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"no {what} {value!r}; there is {', '.join(allowed)}")
        return str(value)

    return parse


@dataclass(frozen=True)
class Option:
    """One setting. `parse` takes one value from a flag, an environment variable or TOML; ValueError says
    what is wrong.
    """

    name: str
    metavar: str
    parse: Callable[[Any], Any]
    help: str
    default: Any  # already parsed; None: worked out from the environment by resolve()
    shown_default: str
    many: bool = False
    switch: bool = False  # its flag stands for true, without a value

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()


OPTIONS = (
    Option(
        "listen",
        "ADDRESS",
        _address,
        "Where to listen: unix:///path, tcp://host:port, rdma://host:port; may be given several times. "
        "Port 0 is a free one.",
        None,
        "/run/gpudisagg.sock for root, else in $XDG_RUNTIME_DIR",
        many=True,
    ),
    Option(
        "allow_network",
        "",
        _switch,
        "Let clients in over tcp:// and rdma:// whose user nobody can check, and listen beyond this host: "
        "whoever reaches the port may then run code as the server's user, unless --tls-ca limits it.",
        False,
        "no",
        switch=True,
    ),
    Option(
        "tls_cert",
        "FILE",
        _path,
        "PEM certificate (chain) that tcp:// clients see; only where the kernel can carry TLS.",
        None,
        "no TLS",
    ),
    Option("tls_key", "FILE", _path, "PEM private key of --tls-cert.", None, "the same file"),
    Option(
        "tls_ca",
        "FILE",
        _path,
        "PEM certificates of who may sign a client's: a client must then show one that they signed.",
        None,
        "clients need none",
    ),
    Option(
        "workers", "N", _integer(1, 256), "Sessions served at once, each by a warm worker process.", 2, "2"
    ),
    Option(
        "spares",
        "N",
        _integer(0, 256),
        "Warm workers beyond those: one takes the place of a worker that must be replaced, at once.",
        1,
        "1",
    ),
    Option("device", "NAME", _choice(DEVICES, "device"), "What sessions run on. Only cpu yet.", "cpu", "cpu"),
    Option(
        "memory",
        "SIZE",
        _size,
        "Device memory a session may have at most, and gets when it does not ask.",
        4 << 30,
        "4GiB",
    ),
    Option(
        "host_memory",
        "SIZE",
        _size,
        "Client memory a session may share at most, and may when it does not ask.",
        4 << 30,
        "4GiB",
    ),
    Option("threads", "N", _integer(0, 1024), "Threads of a worker's cpu device; 0: one per CPU.", 0, "0"),
    Option(
        "cache_dir",
        "DIR",
        _path,
        "Where compiled kernels are kept between runs.",
        None,
        "gpudisagg/code in $XDG_CACHE_HOME or ~/.cache",
    ),
    Option(
        "allow_uid",
        "UID",
        _integer(0, 2**32 - 2),
        "A user besides the daemon's own and root who may connect; may be given several times. Everybody can "
        "then reach the socket, and the kernel says who it is.",
        (),
        "none",
        many=True,
    ),
    Option(
        "queue_timeout", "SECONDS", _seconds(0, 86400), "How long a client may queue, at most.", 60.0, "60"
    ),
    Option(
        "hello_timeout", "SECONDS", _seconds(0.01, 600), "How long a client may take to say HELLO.", 5.0, "5"
    ),
    Option(
        "start_timeout", "SECONDS", _seconds(1, 3600), "How long a worker may take to be ready.", 120.0, "120"
    ),
    Option(
        "grace",
        "SECONDS",
        _seconds(0, 3600),
        "How long sessions have to end at shutdown before they are killed.",
        5.0,
        "5",
    ),
    Option(
        "max_pending",
        "N",
        _integer(1, 65536),
        "Connections that may wait at once; later ones are told BUSY.",
        256,
        "256",
    ),
    Option(
        "log_level", "LEVEL", _choice(LOG_LEVELS, "log level"), f"{', '.join(LOG_LEVELS)}.", "info", "info"
    ),
)

_BY_NAME = {option.name: option for option in OPTIONS}


def load_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, unparsed. ConfigError: not readable, not TOML, or a key that is no
    setting.
    """
    try:
        with path.open("rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for key in values:
        if key not in _BY_NAME:
            near = difflib.get_close_matches(key, _BY_NAME, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(_BY_NAME)}"
            raise ConfigError(f"{path}: no setting {key!r}; {hint}")
    return values


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> ServerConfig:
    """The settings, each from the first of flags, environment, file and defaults that has it.

    `flags`: by option name; None and () mean not given. `file`: else GPUDISAGG_CONFIG names it, else there
    is none. ConfigError names the setting and its source.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(ENVIRONMENT_PREFIX + "CONFIG"):
        file = Path(environ[ENVIRONMENT_PREFIX + "CONFIG"])
    in_file = load_file(file) if file is not None else {}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        given = flags.get(option.name)
        if given is not None and given != ():
            values[option.name] = _parse(option, given, option.flag)
        elif environ.get(option.environment):
            text = environ[option.environment]
            values[option.name] = _parse(option, text.replace(",", " ").split() if option.many else text,
                                         option.environment)  # fmt: skip
        elif option.name in in_file:
            values[option.name] = _parse(option, in_file[option.name], f"{option.name} in {file}")
        else:
            values[option.name] = option.default
    if values["listen"] is None:
        values["listen"] = default_listen(environ, os.geteuid())
    if values["cache_dir"] is None:
        values["cache_dir"] = default_cache_dir(environ)
    config = ServerConfig(**values)
    _check_together(config)
    return config


def _check_together(config: ServerConfig) -> None:
    """What no setting by itself can be wrong about."""
    if config.tls_cert is None and (config.tls_key or config.tls_ca):
        raise ConfigError("--tls-key and --tls-ca are for TLS: give --tls-cert too")
    for text in config.listen:
        place = address.parse(text, listening=True)
        if not place.is_local and not config.allow_network:
            raise ConfigError(
                f"--listen {text}: others than this host may reach it, and whoever does may run code as this "
                "user: listen on 127.0.0.1, or say --allow-network (and see --tls-ca)"
            )
        if place.scheme == "rdma" and config.tls_cert:
            raise ConfigError(f"--listen {text}: RDMA is not encrypted; with --tls-cert only tcp:// is")


def _parse(option: Option, given: Any, source: str) -> Any:
    try:
        if not option.many:
            return option.parse(given)
        several = given if isinstance(given, list | tuple) else [given]
        return tuple(dict.fromkeys(option.parse(one) for one in several))
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
