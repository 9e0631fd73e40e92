"""Fuzzes for as long as you like: `python -m tests.fuzz [TARGET...] --seconds 3600`.

What breaks a target lies in build/fuzz/TARGET afterwards, and is printed. With --keep the inputs that reached
something new go into the repository's corpus, with those of seeds.py, and that is reduced to the fewest that
reach all of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.fuzz import fuzzing
from tests.fuzz.seeds import SEEDS


def work(name: str, toolchain: str, seconds: float, keep: bool) -> bool:
    target = fuzzing.TARGETS[name]
    folder = fuzzing.ROOT / "build" / "fuzz" / name
    binary = fuzzing.build(name, toolchain, folder / toolchain)
    found, seeds = folder / "found", fuzzing.CORPUS / name
    if keep:
        write(SEEDS.get(name, []), found)
    print(f"{name}: {seconds:g} s with {toolchain}; new inputs go to {found}", flush=True)
    done = fuzzing.fuzz(binary, found, seeds, seconds, 0, target.max_len)
    if done.returncode:
        print(fuzzing.explain(done, folder))
        return False
    print(done.stderr.strip().splitlines()[-1])
    if keep:
        reduce(binary, seeds, found)
    return True


def write(seeds: list[bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number:03}").write_bytes(seed)


def reduce(binary: Path, corpus: Path, found: Path) -> None:
    fresh = found.parent / "merged"
    shutil.rmtree(fresh, ignore_errors=True)
    done = fuzzing.merge(binary, fresh, [corpus, found])
    assert done.returncode == 0, fuzzing.explain(done, found.parent)
    shutil.rmtree(corpus)
    shutil.copytree(fresh, corpus)
    print(f"{corpus} has {len(list(corpus.iterdir()))} inputs")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(fuzzing.TARGETS))
    parser.add_argument("--seconds", type=float, default=600, help="for each target")
    parser.add_argument(
        "--toolchain", choices=["gcc", "clang"], default="clang" if not fuzzing.missing("clang") else "gcc"
    )
    parser.add_argument("--keep", action="store_true", help="bring the corpus in the repository up to date")
    options = parser.parse_args()
    if unknown := set(options.targets) - fuzzing.TARGETS.keys():
        parser.error(f"there is no target {min(unknown)}: {', '.join(fuzzing.TARGETS)}")
    results = [
        work(name, options.toolchain, options.seconds, options.keep)
        for name in options.targets or fuzzing.TARGETS
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
