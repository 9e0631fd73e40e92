"""`gpudisagg demo kmeans`: DGSF's first workload on a remote device, checked against the host.

Two jobs: the digits, against scikit-learn point by point; and 1 M × 16, k = 16, against numpy, timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

import gpudisagg
from gpudisagg.demo import plot, reference, report
from gpudisagg.demo.lloyd import Clustering, cluster_on_device

# Labels of float32 points half way between two centroids may fall to either side; all others must be the
# same.
_LARGE_AGREEMENT = 0.999
_INERTIA = 1e-4


def run_digits(session: gpudisagg.Session) -> tuple[Clustering, dict[str, Any]]:
    """K-means of the digits on the device and with scikit-learn, and how they compare.

    In float64, as scikit-learn computes it for this input: labels can then be asked to agree on every point.
    """
    digits = reference.load_digits()
    theirs = reference.cluster_with_sklearn(digits)
    ours = cluster_on_device(
        session, digits.points, digits.centroids, limit=digits.limit, tolerance=digits.tolerance
    )
    points, dims = digits.points.shape
    agree = int(np.count_nonzero(ours.labels == theirs.labels))
    difference = abs(ours.inertia / theirs.inertia - 1)
    return ours, {
        "points": points,
        "dims": dims,
        "clusters": len(digits.centroids),
        "labels_agree": agree,
        "inertia": ours.inertia,
        "inertia_sklearn": theirs.inertia,
        "inertia_difference": difference,
        "iterations": ours.iterations,
        "iterations_sklearn": theirs.iterations,
        "seconds": ours.seconds,
        "seconds_sklearn": theirs.seconds["total"],
        "ok": agree == points and difference <= _INERTIA,
    }


def run_large(
    address: str | None,
    points: int,
    dims: int,
    clusters: int,
    iterations: int,
    meter: Callable[[str, int], Any],
) -> dict[str, Any]:
    """The large job in a session of its own, timed part by part; the same job in numpy in this process."""
    data, begin_at = reference.make_blobs(points, dims, clusters)
    clock = time.perf_counter
    begin = clock()
    with gpudisagg.connect(address, memory=data.nbytes * 2 + (64 << 20), name="demo-kmeans") as session:
        opened = clock()
        with meter("device", iterations) as advance:
            ours = cluster_on_device(session, data, begin_at, limit=iterations, progress=advance)
        seconds = {"session open": opened - begin, **ours.seconds}
        seconds["total"] = clock() - begin
    with meter("numpy", iterations) as advance:
        theirs = reference.cluster_with_numpy(data, begin_at, limit=iterations, progress=advance)
    agree = float(np.mean(ours.labels == theirs.labels))
    difference = abs(ours.inertia / theirs.inertia - 1)
    return {
        "points": points,
        "dims": dims,
        "clusters": clusters,
        "iterations": ours.iterations,
        "iterations_numpy": theirs.iterations,
        "labels_agree": agree,
        "inertia": ours.inertia,
        "inertia_numpy": theirs.inertia,
        "inertia_difference": difference,
        "seconds": seconds,
        "seconds_numpy": theirs.seconds,
        "ratio": theirs.seconds["total"] / seconds["total"],
        "ok": agree >= _LARGE_AGREEMENT and difference <= _INERTIA,
    }


@contextmanager
def _silent(_what: str, _total: int) -> Iterator[None]:
    yield None


def _picture_path(output: Path) -> Path:
    return output / "kmeans.png" if output.is_dir() else output


@click.command()
@click.option("--address", envvar="GPUDISAGG_ADDRESS", help="Server to use. Default: an embedded local one.")
@click.option(
    "--points",
    type=click.IntRange(1, 1 << 27),
    default=1_000_000,
    show_default=True,
    help="Of the large job.",
)
@click.option("--dims", type=click.IntRange(1, 256), default=16, show_default=True, help="Of the large job.")
@click.option(
    "--clusters", type=click.IntRange(2, 256), default=16, show_default=True, help="Of the large job."
)
@click.option("--iterations", type=click.IntRange(1, 10_000), default=20, show_default=True,
              help="At most so many in the large job.")  # fmt: skip
@click.option("--skip-large", is_flag=True, help="Only the digits.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("kmeans.png"), show_default=True,
              help="The picture of the centroids, or the folder to put kmeans.png in.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def kmeans(
    address: str | None,
    points: int,
    dims: int,
    clusters: int,
    iterations: int,
    skip_large: bool,
    output: Path,
    as_json: bool,
) -> None:
    """K-means as CUDA C++ kernels on a remote device, compared with scikit-learn and numpy.

    Exit status 0: everything agreed. 1: something did not, or the device could not be used.
    """
    if points < clusters:
        raise click.BadParameter(f"{points} points cannot make {clusters} clusters", param_hint="--points")
    try:
        result = _run(address, points, dims, clusters, iterations, skip_large, output, as_json)
    except (gpudisagg.GpuDisaggError, OSError, ValueError) as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}"}))
        else:
            click.echo(f"gpudisagg demo kmeans: {type(error).__name__}: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    sys.exit(0 if result["ok"] else 1)


def _run(
    address: str | None,
    points: int,
    dims: int,
    clusters: int,
    iterations: int,
    skip_large: bool,
    output: Path,
    as_json: bool,
) -> dict[str, Any]:
    begin = time.perf_counter()
    with gpudisagg.connect(address, name="demo-kmeans") as session:
        opened = time.perf_counter() - begin
        device = str(session.capabilities.device)
        if not as_json:
            report.say_device(device, opened, embedded=address is None)
        found, digits = run_digits(session)
    digits["seconds"] = {"session open": opened, **digits["seconds"]}
    picture = _picture_path(output)
    title = "K-means on a disaggregated device"
    plot.draw_centroids(found, picture, title, report.digits_sentence(digits))
    result: dict[str, Any] = {"device": device, "digits": digits, "picture": str(picture)}
    if not as_json:
        report.say_digits(digits, picture)
    if not skip_large:
        meter = _silent if as_json else report.meter
        result["large"] = run_large(address, points, dims, clusters, iterations, meter)
        if not as_json:
            report.say_large(result["large"])
    result["ok"] = all(result[job]["ok"] for job in ("digits", "large") if job in result)
    return result
