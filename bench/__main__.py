"""`python -m bench`: lists the benches. `python -m bench NAME [--json FILE]`: runs one, or the row of every
target.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import bulk, idle, latency, launch, measure, opening, recovery
from .row import Effort, Result, Target, run
from .targets import TARGETS

# What a name stands for: the rows whose measurement lives in that module, or all of them.
_MODULES = {
    module.__name__.rpartition(".")[2]: module for module in (latency, launch, bulk, opening, idle, recovery)
}


def benches() -> dict[str, tuple[str, tuple[Target, ...]]]:
    """Name -> (what it measures, its rows)."""
    found = {"targets": ("the row of every target, in under 3 minutes", TARGETS)}
    for name, module in _MODULES.items():
        rows = tuple(row for row in TARGETS if row.measure.__module__ == module.__name__)
        found[name] = ((module.__doc__ or "").strip().splitlines()[0], rows)
    return found


def measure_rows(rows: Sequence[Target], effort: Effort, say: Callable[[str], None] = print) -> list[Result]:
    """Measures row after row and says each as it comes."""
    results = []
    for row in rows:
        result = run(row, effort)
        results.append(result)
        verdict = "holds" if result.holds else "MISSED" if result.value is not None else "FAILED"
        value = "-" if result.value is None else f"{result.value:.4g}"
        say(
            f"{verdict:<7} {result.name}\n"
            f"        {value} {result.unit} (target {result.target}); {result.note}"
        )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything was measured, whether or not the targets hold. 1: something could not be."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(benches()), help="without it: lists them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--markdown", action="store_true", help="at the end, the rows as the README has them")
    options = parser.parse_args(arguments)
    if options.name is None:
        for name, (what, rows) in benches().items():
            print(f"{name:<9} {what} ({len(rows)} rows)")
        return 0
    noise = measure.Noise()
    results = measure_rows(benches()[options.name][1], Effort())
    held = sum(result.holds for result in results)
    noisy = f"{noise.stolen():.1%} of the CPU time was stolen, {noise.others():.0%} used by other processes"
    print(f"{held} of {len(results)} targets hold; meanwhile {noisy}")
    if options.json is not None:
        rows_json = json.dumps([result.as_json() for result in results], indent=2, ensure_ascii=False)
        options.json.write_text(rows_json + "\n", encoding="utf-8")
    if options.markdown:
        print("\n".join(result.as_markdown() for result in results))
    return 0 if all(result.value is not None for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
