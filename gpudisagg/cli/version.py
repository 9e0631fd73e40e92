"""`gpudisagg version`"""

from __future__ import annotations

import click

from gpudisagg._version import __version__


@click.command("version")
def command() -> None:
    """Print the version of gpudisagg and of the wire it speaks."""
    from transport import wire

    click.echo(f"gpudisagg {__version__}, wire version {wire.VERSION}")
