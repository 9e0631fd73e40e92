"""`gpudisagg demo NAME ...`: what follows the name is the demonstration's own."""

from __future__ import annotations

import importlib

import click

_DEMOS = {"kmeans": "K-means as CUDA kernels on a remote device, checked against scikit-learn and numpy."}
_EXTRA = {"sklearn", "matplotlib", "rich"}


class _Demos(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_DEMOS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _DEMOS:
            return None
        try:
            command = getattr(importlib.import_module(f"gpudisagg.demo.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _EXTRA:
                raise
            raise click.ClickException(
                f"{error}: the demonstrations need pip install 'gpudisagg[demo]'"
            ) from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Demonstrations"):
            formatter.write_dl(list(_DEMOS.items()))


@click.command("demo", cls=_Demos, subcommand_metavar="NAME [ARGS]...")
def command() -> None:
    """Run a demonstration on a remote device and check its result."""
