"""What the demo says on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_ROWS = ("session open", "compile", "upload", "iterations", "download", "total")


def _console() -> Console:
    return Console(highlight=False)


def digits_sentence(digits: dict[str, Any]) -> str:
    """One line on how the digits' run compares with scikit-learn's."""
    return (
        f"{digits['points']:,} handwritten digits, {digits['clusters']} clusters, "
        f"{digits['iterations']} iterations: "
        f"{digits['labels_agree']:,} of {digits['points']:,} labels agree with scikit-learn, "
        f"inertia differs by {digits['inertia_difference']:.0e}"
    )


def say_device(device: str, seconds: float, *, embedded: bool) -> None:
    """Which device the session is on, and how long it took to get there."""
    how = ", the embedded server's start included" if embedded else ""
    _console().print(f"device   {device} (session open in {seconds * 1e3:.1f} ms{how})", soft_wrap=True)


def say_digits(digits: dict[str, Any], picture: Path) -> None:
    """The digits' verdict."""
    console = _console()
    verdict = "[green]agrees[/green]" if digits["ok"] else "[bold red]DISAGREES[/bold red]"
    console.print(f"digits   {verdict}: {digits_sentence(digits)}", soft_wrap=True)
    console.print(f"picture  {picture}", soft_wrap=True)


def say_large(large: dict[str, Any]) -> None:
    """The large job's table and verdict."""
    console = _console()
    table = Table(
        title=f"K-means, {large['points']:,} × {large['dims']}, k = {large['clusters']}, "
        f"{large['iterations']} iterations, float32",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("disaggregated device", justify="right")
    table.add_column("numpy, this process", justify="right")
    table.add_column("numpy / device", justify="right")
    for row in _ROWS:
        ours, theirs = large["seconds"][row], large["seconds_numpy"].get(row)
        table.add_row(
            row,
            f"{ours * 1e3:,.1f} ms",
            "" if theirs is None else f"{theirs * 1e3:,.1f} ms",
            "" if theirs is None else f"{theirs / ours:.2f} ×",
            style="bold" if row == "total" else None,
            end_section=row == "download",
        )
    console.print(table)
    verdict = "[green]agrees[/green]" if large["ok"] else "[bold red]DISAGREES[/bold red]"
    console.print(
        f"large    {verdict}: {large['labels_agree']:.4%} of the labels are numpy's, "
        f"inertia differs by {large['inertia_difference']:.0e}",
        soft_wrap=True,
    )


@contextmanager
def meter(what: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error while a job runs, where that is a terminal; else nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda made: progress.update(task, completed=made)
