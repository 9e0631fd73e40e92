"""`python -m gpudisagg`, also installed as `gpudisagg`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; exits with its status."""
    try:
        from gpudisagg.cli import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("gpudisagg's command line needs click: pip install 'gpudisagg[server]'")
    cli(prog_name="gpudisagg")


if __name__ == "__main__":
    main()
