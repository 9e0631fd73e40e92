"""Draws what `bench peers` measured: size against bandwidth and against latency, and the 64-byte messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.comparison import size_text, time_text

RESULTS = Path(__file__).parent / "results"
_MINE = ("#c1121f", "#f77f00", "#780000", "#fcbf49", "#ff5d8f")
_OTHERS = (
    "#1d6fb8",
    "#2a9d8f",
    "#7b2cbf",
    "#5c4033",
    "#0b3954",
    "#e07be0",
    "#6a994e",
    "#118ab2",
    "#b5838d",
    "#444444",
)
_MARKERS = "sD^v<>PXph*d"


def _styles(series: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """One look for each name, the same on every picture: ours thick and warm, floors grey and dashed."""
    styles: dict[str, dict[str, Any]] = {}
    count = {"ours": 0, "floor": 0, "peer": 0}
    for one in series:
        role, i = one["role"], count[one["role"]]
        count[role] += 1
        if role == "ours":
            look = {"color": _MINE[i % len(_MINE)], "linewidth": 2.6, "marker": "o", "zorder": 3}
        elif role == "floor":
            grey = str(0.1 + 0.6 * (i % 9) / 9)
            look = {"color": grey, "linestyle": ("--", ":", "-.")[i % 3], "marker": "", "linewidth": 1.4}
        else:
            look = {
                "color": _OTHERS[i % len(_OTHERS)],
                "marker": _MARKERS[i % len(_MARKERS)],
                "linewidth": 1.2,
            }
        styles[one["name"]] = {"markersize": 5, **look}
    return styles


def subtitle(result: Mapping[str, Any]) -> str:
    """On what it was measured."""
    machine = result["machine"]
    where = f"{machine['cpu']} · {machine['kernel']} · Python {machine['python']} · {machine['date']}"
    versions = " · ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    link = f"emulated link {result['link']} · " if result["link"] else ""
    return f"{link}{where}\ngpudisagg {machine['gpudisagg']}{' · ' if versions else ''}{versions}"


def _finish(figure: Any, title: str, result: Mapping[str, Any], path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.suptitle(title, x=0.01, y=0.985, ha="left", fontsize=14, fontweight="bold")
    figure.text(0.01, 0.945, subtitle(result), ha="left", va="top", fontsize=8, color="#444444", wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def by_size(result: Mapping[str, Any], what: str, path: Path) -> Path:
    """Size against "bandwidth" or "latency", both axes logarithmic."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, axes = plt.subplots(figsize=(11, 7))
    figure.subplots_adjust(left=0.075, right=0.74, top=0.87, bottom=0.08)
    styles = _styles(result["series"])
    if not any(one["bulk"] for one in result["series"]):
        raise ValueError("no bulk was measured: there is no size to draw")
    sizes = sorted({int(size) for one in result["series"] for size in one["bulk"]})
    for one in result["series"]:
        points = sorted((int(size), ns) for size, ns in one["bulk"].items())
        if points:
            values = [size / ns if what == "bandwidth" else ns for size, ns in points]
            axes.plot([size for size, _ in points], values, label=one["name"], **styles[one["name"]])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [size_text(size) for size in sizes], rotation=30, fontsize=8)
    axes.minorticks_off()
    if what == "latency":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ns, _: time_text(ns)))
        axes.set_ylabel("time of one transfer")
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:g}"))
        axes.set_ylabel("GB/s")
    axes.set_xlabel("bytes of one transfer")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    title = "Bandwidth by size" if what == "bandwidth" else "Time of a transfer by size"
    return _finish(figure, f"{title}: one at a time, warm, between two processes of one host", result, path)


def messages(result: Mapping[str, Any], path: Path) -> Path:
    """64 bytes: the round trip (p50, and a line to p99) and the one-way rate."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, (trips, rates) = plt.subplots(1, 2, figsize=(12, 7), width_ratios=(3, 2))
    figure.subplots_adjust(left=0.17, right=0.96, top=0.86, bottom=0.08, wspace=0.62)
    colours = {name: style["color"] for name, style in _styles(result["series"]).items()}
    timed = [one for one in result["series"] if one["round_trip"]]
    timed.sort(key=lambda one: -one["round_trip"]["p50"])
    for row, one in enumerate(timed):
        p50, p99 = one["round_trip"]["p50"], one["round_trip"]["p99"]
        trips.barh(row, p50, color=colours[one["name"]], height=0.65)
        trips.plot([p50, p99], [row, row], color="black", linewidth=1)
        trips.plot([p99], [row], color="black", marker="|", markersize=9)
        trips.text(max(p50, p99) * 1.15, row, time_text(p50), va="center", fontsize=8)
    trips.set_yticks(range(len(timed)), [one["name"] for one in timed], fontsize=9)
    trips.set_xscale("log")
    trips.set_xlim(right=10 * max((one["round_trip"]["p99"] for one in timed), default=1e3))
    trips.xaxis.set_major_formatter(FuncFormatter(lambda ns, _: time_text(ns)))
    trips.set_title("round trip, p50 and p99 (less is better)", fontsize=10)
    sent = sorted((one for one in result["series"] if one["one_way"]), key=lambda one: -one["one_way"])
    for row, one in enumerate(sent):
        rate = 1e3 / one["one_way"]
        rates.barh(row, rate, color=colours[one["name"]], height=0.65)
        rates.text(rate * 1.15, row, f"{rate:.3g}", va="center", fontsize=8)
    rates.set_yticks(range(len(sent)), [one["name"] for one in sent], fontsize=9)
    rates.set_xscale("log")
    rates.set_xlim(right=10 * max((1e3 / one["one_way"] for one in sent), default=1.0))
    rates.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    rates.set_title("one way, million messages a second (more is better)", fontsize=10)
    for axes in (trips, rates):
        axes.grid(True, axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    return _finish(figure, "Messages of 64 bytes between two processes of one host", result, path)


def draw(file: Path, folder: Path = RESULTS) -> list[Path]:
    """The pictures of one result, named after its file where it is not plain `peers.json`."""
    import matplotlib

    matplotlib.use("Agg")
    result = json.loads(file.read_text(encoding="utf-8"))
    prefix = "" if file.stem == "peers" else f"{file.stem}-"
    return [
        by_size(result, "bandwidth", folder / f"{prefix}bandwidth.png"),
        by_size(result, "latency", folder / f"{prefix}latency.png"),
        messages(result, folder / f"{prefix}messages.png"),
    ]
