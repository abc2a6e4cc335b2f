"""The figure of ``flux bench store``; needs matplotlib, the extra ``flux-messenger[bench]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from flux.bench.stores import Outcome

_COLOURS = {"singly": "#7f9bb8", "grouped": "#c8553d"}


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG: throughput and latency of each case, one row per store.

    :raises OSError: the file cannot be written.
    """
    stores = list(dict.fromkeys(outcome.case.store for outcome in outcomes))
    figure = Figure(figsize=(10, 1.2 + 2.6 * len(stores)), layout="constrained")
    axes = figure.subplots(len(stores), 2, squeeze=False)
    for (left, right), store in zip(axes, stores, strict=True):
        own = [outcome for outcome in outcomes if outcome.case.store == store]
        names = [outcome.case.label for outcome in own]
        colours = [_COLOURS[outcome.case.way] for outcome in own]
        bars = left.barh(names, [outcome.rate for outcome in own], color=colours)
        left.bar_label(bars, [f" {outcome.rate:,.0f}" for outcome in own])
        left.set_title(f"{store}: messages a second", loc="left")
        left.margins(x=0.2)
        right.barh(names, [outcome.p99 for outcome in own], color=colours, alpha=0.4, label="p99")
        bars = right.barh(names, [outcome.p50 for outcome in own], color=colours, label="p50")
        right.bar_label(right.containers[0], [f" {outcome.p50:.1f} / {outcome.p99:.1f}" for outcome in own])
        right.set_title("ms to the receipt, p50 / p99", loc="left")
        right.margins(x=0.3)
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
        for axis in (left, right):
            axis.xaxis.set_major_locator(MaxNLocator(6))
            axis.invert_yaxis()
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")
