"""The picture of the digits' centroids."""

from __future__ import annotations

from pathlib import Path

from .lloyd import Clustering


def draw_centroids(found: Clustering, path: Path, title: str, subtitle: str) -> None:
    """Writes the centroids, (clusters, 64), as 8×8 pictures with the size of each cluster below. OSError as
    open().
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    clusters = len(found.centroids)
    columns = 5
    rows = -(-clusters // columns)
    sizes = np.bincount(found.labels, minlength=clusters)
    figure, axes = pyplot.subplots(rows, columns, figsize=(9, 2.0 * rows + 1.1), dpi=150, squeeze=False)
    figure.suptitle(title, x=0.04, y=0.965, ha="left", fontsize=15, fontweight="bold", color="#1a1a2e")
    figure.text(0.04, 0.865, subtitle, ha="left", va="center", fontsize=9.5, color="#555566")
    for position, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if position >= clusters:
            continue
        axis.imshow(
            found.centroids[position].reshape(8, 8), cmap="magma", vmin=0, vmax=16, interpolation="nearest"
        )
        axis.set_title(f"{sizes[position]} points", y=-0.19, fontsize=9, color="#555566")
    figure.subplots_adjust(left=0.04, right=0.96, top=0.80, bottom=0.08, wspace=0.12, hspace=0.28)
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)
