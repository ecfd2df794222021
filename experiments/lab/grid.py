"""What runs over a grid of learning rates come to, in a table and in a picture."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab.tables import markdown, summary

Metrics = list[dict[str, Any]]  # of each epoch; none of a run that diverged

# The runs of all seeds, for each arm and each rate.
Arms = Mapping[str, Mapping[float, Sequence[Metrics]]]


def last(runs: Sequence[Metrics], key: str) -> list[float]:
    """The last epoch's `key` of each run, NaN where it diverged."""
    return [metrics[-1][key] if metrics else math.nan for metrics in runs]


def chosen(of_rates: Mapping[float, Sequence[Metrics]], key: str) -> float:
    """The rate whose runs have the lowest mean of `key` after the last epoch."""
    return min(of_rates, key=lambda rate: statistics.mean(last(of_rates[rate], key)))


def over_rates(
    arms: Arms,
    rates: Sequence[float],
    *,
    seeds: int,
    choose: str,
    show: str,
    digits: int,
    factor: float = 1.0,
) -> str:
    """Each arm at each rate, and at the one where `choose` is lowest, in Markdown.

    Args:
      arms: the runs that there are.
      rates: of every arm.
      seeds: of every rate. A rate is chosen only where every rate has all of them, and
        only one at which none diverged: the mean of the others would look too good.
      choose: the metric that chooses the rate; not the one that is shown.
      show: the metric that is shown, mean and standard deviation over the seeds, with
        their number where it is not all, and how many diverged.
      digits: of what is shown.
      factor: what is shown is multiplied by it.
    """
    rows = []
    for arm, of_rates in arms.items():
        cells = dict.fromkeys([*rates, 'chosen', 'there'], '–')
        for rate, runs in of_rates.items():
            values = [factor * x for x in last(runs, show)]
            cells[rate] = summary(values, digits, seeds)
        finite = {rate: runs for rate, runs in of_rates.items() if all(runs)}
        if finite and all(len(of_rates.get(rate, ())) == seeds for rate in rates):
            rate = chosen(finite, choose)
            cells |= {'chosen': f'{rate:g}', 'there': cells[rate]}
        rows.append([arm, *cells.values()])
    header = ['arm', *(f'{rate:g}' for rate in rates), 'chosen', 'there']
    return markdown(header, rows)


def draw_grid(
    path: Path,
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    styles: Mapping[str, Mapping[str, Any]],
    label: str,
) -> None:
    """Draws a panel for each title: a line through the means of each arm.

    Points of dashed lines are hollow. Where a run diverged a cross at the upper edge
    says so, and the line is broken; then its means are circles, so that none between
    two gaps is lost.

    Args:
      path: of the PNG file.
      panels: for each title, arm and place on the logarithmic axis the values, of
        which each is a point; NaN of a run that diverged.
      styles: how each arm is drawn.
      label: of the axis.
    """
    figure = Figure(figsize=(6 * len(panels), 4.5), layout='constrained')
    for axes, (title, arms) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for arm, values in arms.items():
            draw_arm(axes, values, arm, styles[arm])
        axes.set_xscale('log')
        # Where all runs diverged too.
        places = sorted({place for values in arms.values() for place in values})
        axes.update_datalim([(place, 0.0) for place in places], updatey=False)
        axes.autoscale_view()
        axes.set_xticks(places, [f'{place:g}' for place in places])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(label)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def draw_arm(
    axes: Axes,
    values: Mapping[float, Sequence[float]],
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Draws the line and the points of one arm of `draw_grid`."""
    means = [statistics.mean(of_place) for of_place in values.values()]
    gaps = [place for place, mean in zip(values, means, strict=True) if mean != mean]
    marker = 'o' if gaps else ''
    axes.plot(list(values), means, label=label, marker=marker, mfc='none', **style)
    solid = style.get('linestyle', '-') == '-'
    face = style['color'] if solid else 'none'
    for place, of_place in values.items():
        axes.plot(
            [place] * len(of_place), of_place, 'o', ms=4, color=style['color'], mfc=face
        )
    if gaps:
        axes.plot(
            gaps,
            [1.0] * len(gaps),
            'x',
            color=style['color'],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
