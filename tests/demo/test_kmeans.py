"""The demonstration: the device's K-means is scikit-learn's and numpy's, and the command says so truly."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

import gpudisagg
from gpudisagg.demo import kmeans, lloyd, plot, reference
from tests.client.conftest import serving

pytest.importorskip("sklearn", reason="scikit-learn comes with the extra `demo`")


@pytest.fixture(scope="module", params=["local", "tcp"])
def session(request: pytest.FixtureRequest) -> Iterator[gpudisagg.Session]:
    """A session on an embedded local server, and one by a transport without shared memory."""
    with contextlib.ExitStack() as stack:
        address = None
        if request.param == "tcp":
            address = stack.enter_context(serving("--workers", "1", over="tcp"))
        yield stack.enter_context(gpudisagg.connect(address, name="tests"))


def plain_lloyd(
    points: npt.NDArray[Any], centroids: npt.NDArray[Any], limit: int, tolerance: float = 0.0
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """Lloyd's iterations as the textbook has them: slow, in float64, with scikit-learn's two stopping
    rules.
    """
    centroids = centroids.astype(np.float64)
    labels = np.full(len(points), -1)
    for made in range(1, limit + 1):
        found = ((points[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1).argmin(1)
        moved = centroids.copy()
        for k in set(found.tolist()):
            moved[k] = points[found == k].mean(0, dtype=np.float64)
        settled, shift = bool((found == labels).all()), float(((moved - centroids) ** 2).sum())
        labels, centroids = found, moved
        if settled:
            return labels, centroids, made
        if shift <= tolerance:
            break
    return ((points[:, None] - centroids[None]) ** 2).sum(-1).argmin(1), centroids, made


def test_the_digits_agree_with_scikit_learn_on_every_point(session: gpudisagg.Session) -> None:
    found, digits = kmeans.run_digits(session)
    assert digits["ok"]
    assert digits["labels_agree"] == digits["points"] == 1797
    assert digits["inertia_difference"] <= 1e-4
    assert digits["iterations"] == digits["iterations_sklearn"]
    assert found.converged


def test_no_digit_is_as_far_from_one_initial_centroid_as_from_another() -> None:
    """The promise behind comparing labels one by one: rounding decides nothing at the start."""
    digits = reference.load_digits()
    distances = ((digits.points[:, None] - digits.centroids[None]) ** 2).sum(-1)
    nearest = np.sort(distances, axis=1)
    assert (nearest[:, 0] < nearest[:, 1]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "dims", "clusters"), [(1, 1, 1), (300, 1, 2), (257, 3, 5), (1000, 65, 7), (5000, 16, 16)]
)
def test_device_and_textbook_agree_on_shapes_that_fill_no_block(
    session: gpudisagg.Session, n: int, dims: int, clusters: int, dtype: npt.DTypeLike
) -> None:
    random = np.random.default_rng(n)
    points = random.normal(size=(n, dims)).astype(dtype)
    begin = points[random.choice(n, clusters, replace=False)].copy()
    ours = lloyd.cluster_on_device(session, points, begin, limit=5)
    labels, centroids, made = plain_lloyd(points, begin, limit=5)
    assert ours.iterations == made
    assert np.mean(ours.labels == labels) >= (1.0 if dtype == np.float64 else 0.99)
    np.testing.assert_allclose(ours.centroids, centroids, atol=1e-9 if dtype == np.float64 else 2e-2)
    inertia = float(((points - centroids[labels]) ** 2).sum())
    assert ours.inertia == pytest.approx(inertia, rel=1e-9 if dtype == np.float64 else 1e-3)


def test_an_empty_cluster_stays_where_it_was(session: gpudisagg.Session) -> None:
    points = np.zeros((100, 2), np.float32)
    begin = np.array([[0, 0], [50, 60]], np.float32)
    ours = lloyd.cluster_on_device(session, points, begin, limit=3)
    assert (ours.labels == 0).all()
    np.testing.assert_array_equal(ours.centroids, begin)


def test_of_two_equally_near_centroids_the_first_is_taken(session: gpudisagg.Session) -> None:
    points = np.zeros((10, 1), np.float64)
    ours = lloyd.cluster_on_device(session, points, np.array([[1.0], [-1.0]]), limit=1)
    assert (ours.labels == 0).all()


def test_a_tolerance_ends_it_before_the_labels_settle(session: gpudisagg.Session) -> None:
    points, begin = reference.make_blobs(3000, 4, 6)
    whole = lloyd.cluster_on_device(session, points, begin, limit=200)
    early = lloyd.cluster_on_device(session, points, begin, limit=200, tolerance=1e-2)
    assert whole.converged
    assert early.converged
    assert early.iterations < whole.iterations


def test_what_no_block_can_hold_is_refused_with_the_numbers(session: gpudisagg.Session) -> None:
    with pytest.raises(ValueError, match="49152"):
        lloyd.DeviceKMeans(session, 256, 256)
    with pytest.raises(TypeError, match="float32 or float64"):
        lloyd.DeviceKMeans(session, 2, 2, np.int32)


@pytest.mark.parametrize("n", [1, 16384, 16385, 40000])
def test_numpy_is_the_textbook_too(n: int) -> None:
    points, begin = reference.make_blobs(max(n, 4), 3, 4)
    ours = reference.cluster_with_numpy(points, begin, limit=4)
    labels, centroids, made = plain_lloyd(points, begin, limit=4)
    assert ours.iterations == made
    assert np.mean(ours.labels == labels) >= 0.999
    np.testing.assert_allclose(ours.centroids, centroids, atol=1e-2)


def test_numpy_takes_the_first_of_two_equally_near_centroids() -> None:
    points = np.zeros((5, 1), np.float32)
    ours = reference.cluster_with_numpy(points, np.array([[1.0], [-1.0]], np.float32), limit=1)
    assert (ours.labels == 0).all()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(kmeans.kmeans, [*arguments])


SMALL = ("--points", "20000", "--iterations", "3")


def test_the_command_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    result = run("--json", "--output", str(tmp_path), *SMALL)
    printed = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert printed["ok"] is True
    assert printed["digits"]["labels_agree"] == 1797
    assert set(printed["large"]["seconds"]) == {
        "session open", "compile", "upload", "iterations", "download", "total",
    }  # fmt: skip
    assert printed["large"]["ratio"] > 0
    assert Path(printed["picture"]) == tmp_path / "kmeans.png"
    assert (tmp_path / "kmeans.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_that_it_agrees_and_shows_the_table(tmp_path: Path) -> None:
    result = run("--output", str(tmp_path / "digits.png"), *SMALL)
    assert result.exit_code == 0, result.output
    assert "1,797 of 1,797 labels agree with scikit-learn" in result.stdout
    for row in ("session open", "compile", "upload", "iterations", "download", "total"):
        assert row in result.stdout
    assert (tmp_path / "digits.png").exists()


def test_a_label_that_disagrees_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = reference.cluster_with_sklearn

    def off_by_one(digits: reference.Digits) -> lloyd.Clustering:
        found = honest(digits)
        found.labels[5] = (found.labels[5] + 1) % 10
        return found

    monkeypatch.setattr(reference, "cluster_with_sklearn", off_by_one)
    result = run("--skip-large", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "DISAGREES" in result.stdout
    assert "1,796 of 1,797" in result.stdout


def test_no_server_is_an_error_in_one_line_or_one_object(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/nobody.sock"
    said = run("--address", address)
    assert said.exit_code == 1
    assert "nobody.sock" in said.stderr
    assert "Traceback" not in said.stderr
    printed = json.loads(run("--address", address, "--json").stdout)
    assert printed["ok"] is False
    assert "nobody.sock" in printed["error"]


def test_more_clusters_than_points_is_refused() -> None:
    result = run("--points", "5", "--clusters", "6")
    assert result.exit_code == 2
    assert "5 points" in result.stderr


def test_the_picture_shows_clusters_that_no_row_divides(tmp_path: Path) -> None:
    found = lloyd.Clustering(np.zeros(7, np.int32), np.zeros((7, 64)), 0.0, 1, True)
    plot.draw_centroids(found, tmp_path / "seven.png", "seven", "of them")
    assert (tmp_path / "seven.png").read_bytes().startswith(b"\x89PNG")
