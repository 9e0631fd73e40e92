"""The command line. Each command is a module of this package, imported when it is asked for."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "serve": "Run a server: a daemon and its warm workers.",
    "demo": "Run a demonstration on a remote device and check its result.",
    "doctor": "Say what works on this machine, and what does not and why.",
    "version": "Print the version.",
}


class _Lazy(click.Group):
    """Knows its commands by name; `--help` of the group and of one command import nothing of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"gpudisagg.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Disaggregated GPUs for functions that have none."""
