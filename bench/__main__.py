"""`python -m bench`: lists the benches.

`python -m bench NAME`: runs one. `python -m bench peers --json FILE` compares with other libraries, and
`python -m bench plot FILE` draws what it found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from . import (
    beside,
    bulk,
    comparison,
    delayed,
    emulate,
    idle,
    kernels,
    latency,
    launch,
    measure,
    opening,
    plot,
    recovery,
    typical,
    verbs,
)
from .row import Effort, Result, Target, run
from .targets import TARGETS

# What a name stands for: the rows whose measurement lives in that module, or all of them.
_MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (latency, launch, bulk, opening, idle, recovery, beside, delayed, verbs, kernels)
}


def benches() -> dict[str, tuple[str, tuple[Target, ...]]]:
    """Name -> (what it measures, its rows)."""
    found = {"targets": ("the row of every target, in some 10 minutes", TARGETS)}
    for name, module in _MODULES.items():
        rows = tuple(row for row in TARGETS if row.measure.__module__ == module.__name__)
        found[name] = ((module.__doc__ or "").strip().splitlines()[0], rows)
    found["typical"] = ((typical.__doc__ or "").strip().splitlines()[0], typical.ROWS)
    return found


def measure_rows(
    rows: Sequence[Target], effort: Effort, say: Callable[[str], None] = comparison.print_now
) -> list[Result]:
    """Measures row after row and says each as it comes."""
    results = []
    for row in rows:
        result = run(row, effort)
        results.append(result)
        value = "-" if result.value is None else f"{result.value:.4g}"
        say(
            f"{result.verdict:<7} {result.name}\n"
            f"        {value} {result.unit} (target {result.target}); {result.note}"
        )
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(dest="name", metavar="NAME", title="benches (without one: lists them)")
    for name, (what, _) in benches().items():
        bench = names.add_parser(name, help=what)
        bench.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
        bench.add_argument(
            "--markdown", action="store_true", help="at the end, the rows as the README has them"
        )
        _add_interpreter(bench)
    compare = names.add_parser("peers", help=_PEERS)
    compare.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there, for plot")
    compare.add_argument("--only", metavar="'NAME;NAME'", help="these peers and no others")
    compare.add_argument(
        "--emulate",
        type=_link,
        metavar="LINK",
        help="what goes over tcp, through a link such as rtt=20us,bw=10Gbps, and nothing else",
    )
    compare.add_argument("--quick", action="store_true", help="shows that all runs; the figures mean nothing")
    _add_interpreter(compare)
    drawing = names.add_parser("plot", help=_PLOT)
    drawing.add_argument("file", type=Path, metavar="FILE", help="what `bench peers --json FILE` wrote")
    drawing.add_argument("--into", type=Path, default=plot.RESULTS, metavar="FOLDER")
    return parser


_PEERS = "us, the floors and every peer that is installed, in one run"
_PLOT = "draws what `peers` measured"


def _add_interpreter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PATH",
        help="the Python interpreter that has the peers' packages; this one by default",
    )


def _link(text: str) -> emulate.Link:
    try:
        return emulate.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _noisy(stolen: float, others: float) -> str:
    return f"{stolen:.1%} of the CPU time was stolen, {others:.0%} used by other processes"


def _run_rows(options: argparse.Namespace) -> int:
    noise = measure.Noise()
    effort = replace(Effort(), peers_python=options.peers_python)
    results = measure_rows(benches()[options.name][1], effort)
    held = sum(result.holds for result in results)
    here = sum(result.here for result in results)
    elsewhere = f" ({len(results) - here} more cannot be measured here)" if here < len(results) else ""
    meanwhile = _noisy(noise.stolen(), noise.others())
    print(f"{held} of {here} targets hold{elsewhere}; meanwhile {meanwhile}")
    if options.json is not None:
        rows_json = json.dumps([result.as_json() for result in results], indent=2, ensure_ascii=False)
        options.json.write_text(rows_json + "\n", encoding="utf-8")
    if options.markdown:
        print("\n".join(result.as_markdown() for result in results))
    return 0 if all(result.value is not None or not result.here for result in results) else 1


def _run_peers(options: argparse.Namespace) -> int:
    extent = comparison.Extent.smoke() if options.quick else comparison.Extent()
    kinds = comparison.chosen(options.only, options.emulate)
    result = comparison.compare(kinds, extent, options.peers_python, options.emulate)
    print(comparison.table(result))
    print(f"Meanwhile {_noisy(**result['noise'])}.")
    if options.json is not None:
        comparison.write(result, options.json)
        print(f"python -m bench plot {options.json} draws it.")
    return 1 if result["failed"] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything was measured that can be here, whether or not the targets hold. 1: something failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.name is None:
            for name, (what, rows) in benches().items():
                print(f"{name:<9} {what} ({len(rows)} rows)")
            print(f"{'peers':<9} {_PEERS}\n{'plot':<9} {_PLOT}")
            return 0
        if options.name == "peers":
            return _run_peers(options)
        if options.name == "plot":
            print("\n".join(str(path) for path in plot.draw(options.file, options.into)))
            return 0
    except (ValueError, OSError, LookupError) as error:
        parser.error(str(error))
    return _run_rows(options)


if __name__ == "__main__":
    sys.exit(main())
