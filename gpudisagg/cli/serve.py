"""`gpudisagg serve`"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from gpudisagg.server.config import ENVIRONMENT_PREFIX, OPTIONS, ConfigError, resolve

_EXIT_CONFIG = 2
_EXIT_FAILED = 1


def _options(function: Any) -> Any:
    """One click option for each of the daemon's settings. Values stay text: config.resolve() parses all
    sources alike.
    """
    for option in reversed(OPTIONS):
        shown = f"{option.help}  [env: {option.environment}; default: {option.shown_default}]"
        if option.switch:  # None where it is not given: the environment or the file may have it
            decorate = click.option(option.flag, option.name, is_flag=True, default=None, help=shown)
        else:
            decorate = click.option(
                option.flag, option.name, metavar=option.metavar, multiple=option.many, help=shown
            )
        function = decorate(function)
    return function


@click.command("serve")
@_options
@click.option(
    "--config", "config_file", metavar="FILE", type=click.Path(path_type=Path),
    help="TOML file with any of these settings: a key for each, named as the flag with _ for -."
    f"  [env: {ENVIRONMENT_PREFIX}CONFIG; default: none]",
)  # fmt: skip
@click.option(
    "--until-closed", metavar="FD", type=click.IntRange(0),
    help="Shut down when this inherited pipe or socket is closed at its other end: when the process that "
    "started the server is gone.",
)  # fmt: skip
def command(config_file: Path | None, until_closed: int | None, **flags: Any) -> None:
    """Run a server: a daemon that admits sessions, and warm workers that run them.

    Prints "gpudisagg: listening on ADDRESS" when it can serve. SIGTERM or SIGINT ends it: sessions are told,
    sockets removed. SIGUSR1 prints its status to stderr, as a line of JSON.

    A setting comes from its flag, else from the environment, else from the file, else it is the default.
    """
    from gpudisagg.server.daemon import serve
    from gpudisagg.server.supervisor import StartError

    try:
        config = resolve(flags, file=config_file)
    except ConfigError as error:
        click.echo(f"gpudisagg serve: {error}", err=True)
        sys.exit(_EXIT_CONFIG)
    if until_closed is not None:
        try:
            os.fstat(until_closed)
        except OSError:
            click.echo(
                f"gpudisagg serve: --until-closed {until_closed}: no such descriptor was inherited", err=True
            )
            sys.exit(_EXIT_CONFIG)
    logging.basicConfig(
        stream=sys.stderr,
        level=config.log_level.upper(),
        format=f"%(asctime)s %(levelname)s daemon {os.getpid()}: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        asyncio.run(serve(config, until_closed))
    except StartError as error:
        click.echo(f"gpudisagg serve: {error}", err=True)
        sys.exit(_EXIT_FAILED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"gpudisagg serve: {error.strerror or error}{where}", err=True)
        sys.exit(_EXIT_FAILED)
