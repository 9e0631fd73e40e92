"""The same jobs on the host, to compare with: scikit-learn for the digits, plain numpy for the large one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .lloyd import Clustering

_CHUNK = 16384  # points: their scores against 16 clusters stay in the second-level cache


@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits: points (1797, 64), pixels 0..16, and where K-means begins: (10,
    64).
    """

    points: npt.NDArray[np.float64]
    centroids: npt.NDArray[np.float64]
    tolerance: float
    limit: int


def load_digits(clusters: int = 10, seed: int = 0) -> Digits:
    """The digits and the job that scikit-learn's KMeans makes of them: k-means++ centroids, `tol` and
    `max_iter`.

    Pixels are whole numbers, so a point can be exactly as far from one initial centroid as from another,
    and then
    rounding inside scikit-learn decides. With seed 0 no point is: labels can be compared one by one.
    """
    from sklearn import datasets
    from sklearn.cluster import KMeans, kmeans_plusplus

    points = np.ascontiguousarray(datasets.load_digits().data, np.float64)
    centroids, _ = kmeans_plusplus(points, clusters, random_state=seed)
    defaults = KMeans().get_params()
    tolerance = float(defaults["tol"]) * float(np.mean(np.var(points, axis=0)))  # as KMeans scales it
    return Digits(points, np.ascontiguousarray(centroids), tolerance, int(defaults["max_iter"]))


def cluster_with_sklearn(digits: Digits) -> Clustering:
    """The reference for the digits: sklearn.cluster.KMeans(algorithm="lloyd", n_init=1) from the same
    centroids.
    """
    from sklearn.cluster import KMeans

    begin = time.perf_counter()
    model = KMeans(len(digits.centroids), algorithm="lloyd", n_init=1, init=digits.centroids).fit(
        digits.points
    )
    return Clustering(
        labels=model.labels_.astype(np.int32),
        centroids=model.cluster_centers_,
        inertia=float(model.inertia_),
        iterations=int(model.n_iter_),
        converged=int(model.n_iter_) < digits.limit,
        seconds={"total": time.perf_counter() - begin},
    )


def make_blobs(
    n: int, dims: int, clusters: int, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Synthetic points (n, dims) around as many centres as clusters, overlapping, and points of them to
    begin at.
    """
    random = np.random.default_rng(seed)
    centres = random.normal(scale=1.5, size=(clusters, dims)).astype(np.float32)
    points = random.standard_normal(size=(n, dims), dtype=np.float32)
    points *= 2.0
    points += centres[random.integers(0, clusters, n)]
    return points, points[random.choice(n, clusters, replace=False)].copy()


def cluster_with_numpy(
    points: npt.NDArray[np.float32],
    centroids: npt.NDArray[np.float32],
    *,
    limit: int,
    progress: Callable[[int], None] | None = None,
) -> Clustering:
    """Lloyd's iterations in numpy, as fast as numpy goes: matrix products by its BLAS, in chunks that stay
    in the cache.

    Same rule as on the device: at most `limit` iterations, until no label changes or no centroid moves.
    """
    begin = time.perf_counter()
    labels = np.full(len(points), -1, np.int32)
    previous = labels.copy()
    made, converged, settled = 0, False, False
    centroids = centroids.copy()
    while made < limit and not converged:
        sums, counts = _assign(points, centroids, labels, with_sums=True)
        filled, before = counts > 0, centroids.copy()
        centroids[filled] = (sums[filled] / counts[filled, None]).astype(centroids.dtype)
        made += 1
        settled = bool(np.array_equal(labels, previous))
        converged = settled or bool(np.array_equal(centroids, before))
        previous, labels = labels, previous
        if progress is not None:
            progress(made)
    labels, previous = previous, labels
    if not settled:
        _assign(points, centroids, labels, with_sums=False)
    iterated = time.perf_counter()
    inertia = sum_of_squares(points, centroids, labels)
    seconds = {"iterations": iterated - begin, "total": time.perf_counter() - begin}
    return Clustering(labels, centroids, inertia, made, converged, seconds)


def _assign(
    points: npt.NDArray[np.float32],
    centroids: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    *,
    with_sums: bool,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Fills in `labels`; returns the sums (clusters, dims) and sizes (clusters,) of the clusters."""
    clusters, dims = centroids.shape
    sums, counts = np.zeros((clusters, dims)), np.zeros(clusters, np.int64)
    # |x - c|^2 is least where x.c - |c|^2/2 is greatest. argmax walks short rows slowly: comparing with the
    # maximum
    # gives the one-hot matrix at once, which then yields labels and sums as matrix products.
    half = (centroids * centroids).sum(axis=1, keepdims=True) / 2
    names = np.arange(clusters, dtype=np.float32)
    for start in range(0, len(points), _CHUNK):
        chunk = points[start : start + _CHUNK]
        scores = centroids @ chunk.T
        scores -= half
        member = (scores == scores.max(axis=0)).astype(np.float32)
        sizes = member.sum(axis=1)
        if sizes.sum() != len(chunk):  # a tie: the first of the best, as argmax has it
            member = (np.arange(clusters)[:, None] == scores.argmax(axis=0)).astype(np.float32)
            sizes = member.sum(axis=1)
        labels[start : start + _CHUNK] = names @ member
        if with_sums:
            sums += member @ chunk
            counts += sizes.astype(np.int64)
    return sums, counts


def sum_of_squares(
    points: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
) -> float:
    """The inertia, accumulated in float64: the sum over the points of the squared distance to their
    centroid.
    """
    total = 0.0
    for start in range(0, len(points), _CHUNK):
        difference = points[start : start + _CHUNK] - centroids[labels[start : start + _CHUNK]]
        total += float(np.einsum("ij,ij->", difference, difference, dtype=np.float64))
    return total
