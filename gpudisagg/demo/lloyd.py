"""K-means on a device: Lloyd's iterations as the kernels of kmeans.cu, driven from here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from gpudisagg import DeviceArray, Session

_MAX_SHARED = 48 * 1024  # bytes of shared memory that every CUDA device gives a block
_GOOD_SHARED = 16 * 1024  # with so much, several blocks fit a multiprocessor, and one a CPU's first cache
_PACKET = 16  # bytes that a thread loads at a time: points are padded with zeros to a multiple
_BLOCK = 256
_MAX_BLOCKS = 256  # of the kernels that sum: `update` adds up what each of them leaves
_REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@dataclass
class Clustering:
    """What a K-means run found, on a device or on the host.

    labels: (n,) int32. centroids: (clusters, dims). inertia: sum of squared distances, in the points' units
    squared.
    seconds: how long each part took, by name.
    """

    labels: npt.NDArray[np.int32]
    centroids: npt.NDArray[Any]
    inertia: float
    iterations: int
    converged: bool
    seconds: dict[str, float] = field(default_factory=dict)


class DeviceKMeans:
    """K-means of points of one shape and type in one session.

    dims × clusters is limited by the shared memory of a block: ValueError says by how much it is too large.
    """

    def __init__(self, session: Session, dims: int, clusters: int, dtype: npt.DTypeLike = np.float32) -> None:
        self._session = session
        self._dims, self._clusters, self._dtype = dims, clusters, np.dtype(dtype)
        if self._dtype not in _REALS:
            raise TypeError(f"points must be float32 or float64, not {self._dtype}")
        if dims < 1 or clusters < 1:
            raise ValueError(f"{clusters} clusters of {dims} dimensions: there must be one of each at least")
        width = _PACKET // self._dtype.itemsize
        self._packets = -(-dims // width)
        self._padded = self._packets * width
        share = clusters * (self._packets * _PACKET + 4)
        if share > _MAX_SHARED or self._packets > _BLOCK:
            raise ValueError(
                f"{clusters} clusters of {dims} dimensions need {share} bytes of shared memory a block; "
                f"{_MAX_SHARED} is what there is: use fewer clusters or dimensions"
            )
        self._shares = max(1, min(_BLOCK // self._packets, _GOOD_SHARED // share))
        options = (
            f"-DREAL={_REALS[self._dtype]}",
            f"-DDIMS={self._padded}",
            f"-DCLUSTERS={clusters}",
            f"-DSHARES={self._shares}",
        )
        source = resources.files("gpudisagg.demo").joinpath("kmeans.cu").read_text(encoding="utf-8")
        self._module = session.compile(source, options=options)

    def upload(self, points: npt.NDArray[Any], centroids: npt.NDArray[Any]) -> None:
        """points: (n, dims); centroids: (clusters, dims), where to begin. Both are converted to the run's
        dtype.
        """
        session, clusters, dims = self._session, self._clusters, self._padded
        self._n = len(points)
        self._blocks = max(1, min(_MAX_BLOCKS, -(-self._n // _BLOCK)))
        self._points = session.asarray(self._pad(points))
        self._centroids = session.asarray(self._pad(centroids))
        self._moved = session.empty_like(self._centroids)
        self._labels = session.empty((self._n,), np.int32)
        self._previous = session.full((self._n,), -1, np.int32)
        self._sums = session.empty((self._blocks, clusters, dims), self._dtype)
        self._counts = session.empty((self._blocks, clusters), np.int32)
        self._changed = session.zeros((1,), np.int32)
        self._shift = Told(session, clusters, np.float64)
        self._moves = Told(session, 1, np.int64)
        self._partial = Told(session, self._blocks, np.float64)
        session.synchronize()

    def _pad(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._padded == self._dims:
            return np.ascontiguousarray(rows, self._dtype)
        padded = np.zeros((len(rows), self._padded), self._dtype)
        padded[:, : self._dims] = rows
        return padded

    def iterate(
        self, limit: int, tolerance: float = 0.0, progress: Callable[[int], None] | None = None
    ) -> tuple[int, bool]:
        """At most `limit` iterations, until no label changes or the centroids' squared shift is within
        `tolerance`.

        Returns how many were made and whether one of the two rules ended them: scikit-learn's rules, in its
        order.
        """
        made, converged, settled = 0, False, False
        while made < limit and not converged:
            self._assign()
            self._accumulate()
            made += 1
            settled = int(self._moves.host[0]) == 0
            converged = settled or float(self._shift.host.sum()) <= tolerance
            self._previous, self._labels = self._labels, self._previous
            if progress is not None:
                progress(made)
        if settled:
            self._labels, self._previous = self._previous, self._labels
        else:
            self._assign()  # the labels belong to the centroids as they are now
        self._session.synchronize()
        return made, converged

    def _assign(self) -> None:
        grid = -(-self._n // _BLOCK)
        self._module["assign"][grid, _BLOCK](self._points, self._centroids, self._labels, self._n)

    def _accumulate(self) -> None:
        kernels, per_block = self._module, -(-self._n // self._blocks)
        kernels["accumulate"][self._blocks, (self._packets, self._shares)](
            self._points,
            self._labels,
            self._previous,
            self._n,
            per_block,
            self._sums,
            self._counts,
            self._changed,
        )
        kernels["update"][-(-self._clusters * self._padded // 128), 128](
            self._sums, self._counts, self._blocks, self._centroids, self._moved
        )
        kernels["report"][1, self._clusters](
            self._centroids, self._moved, self._changed, self._shift.device, self._moves.device
        )
        self._shift.bring()
        self._moves.bring()
        self._centroids, self._moved = self._moved, self._centroids
        self._session.synchronize()

    def download(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any], float]:
        """Labels (n,), centroids (clusters, dims), and the inertia: the sum of squared distances."""
        self._module["inertia"][self._blocks, _BLOCK](
            self._points, self._centroids, self._labels, self._n, self._partial.device
        )
        self._partial.bring()
        labels, centroids = self._labels.get(), self._centroids.get()[:, : self._dims]
        return labels, centroids, float(self._partial.host.sum())


class Told:
    """A few numbers that a kernel has for the host: in memory that both reach, where there is such, so that
    nothing is copied; else in device memory, and copied behind the kernel.

    device: the kernel's argument. host: the numbers, at the next synchronisation after `bring()`.
    """

    def __init__(self, session: Session, count: int, dtype: Any) -> None:
        self.host = session.host_empty((count,), dtype)
        self.device = self.host if session.capabilities.host_map else session.empty((count,), dtype)

    def bring(self) -> None:
        if isinstance(self.device, DeviceArray):
            self.device.get(self.host, blocking=False)


def cluster_on_device(
    session: Session,
    points: npt.NDArray[Any],
    centroids: npt.NDArray[Any],
    *,
    limit: int,
    tolerance: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Clustering:
    """The whole job on the session's device: compile, upload, iterate, download; each timed."""
    clock = time.perf_counter
    begin = clock()
    job = DeviceKMeans(session, points.shape[1], len(centroids), points.dtype)
    compiled = clock()
    job.upload(points, centroids)
    uploaded = clock()
    iterations, converged = job.iterate(limit, tolerance, progress)
    iterated = clock()
    labels, found, inertia = job.download()
    seconds = {
        "compile": compiled - begin,
        "upload": uploaded - compiled,
        "iterations": iterated - uploaded,
        "download": clock() - iterated,
    }
    return Clustering(labels, found, inertia, iterations, converged, seconds)
