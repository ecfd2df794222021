"""Pictures of a search: paths on contours, and losses by learning rate."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.landscapes.contours import heights
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import CONTROLS
from experiments.landscapes.search import RATES, SOLVED, Runs

SHOWN = ('adam', 'adam-half', 'diffgrad', 'momentum', 'momentum+friction', 'mars')
CURVES = (
    'adam',
    'diffgrad',
    'diffgrad-relative_dfc',
    'adadiff',
    'mars',
    'mars-uncorrected',
    'momentum',
)
STARTS = 3
SHADES = LinearSegmentedColormap.from_list('heights', ['#8fabc6', '#f7f8fa'])


def draw_paths(
    path: Path, record: dict[str, Any], runs: dict[str, dict[str, Runs]]
) -> None:
    """Draws a row of landscapes for each function, an optimizer on each."""
    names = present(SHOWN, next(iter(runs.values())))
    figure = Figure(figsize=(2.3 * len(names), 2.45 * len(runs)), layout='constrained')
    rows = figure.subplots(len(runs), len(names), squeeze=False)
    for (title, of), row in zip(runs.items(), rows, strict=True):
        function = FUNCTIONS[title]
        (left, bottom), (right, top) = function.low, function.high
        height = heights(function, 200)
        x, y = np.linspace(left, right, 200), np.linspace(bottom, top, 200)
        for name, axes in zip(names, row, strict=True):
            rate = record['functions'][title][name]['rate']
            axes.contourf(x, y, height, levels=14, cmap=SHADES)
            for minimum in function.minima:
                axes.plot(*minimum, 'x', color='black', markersize=6)
            for positions in of[name].positions[RATES.index(rate), :STARTS]:
                finite = positions[np.isfinite(positions).all(-1)]
                # Farther outside, matplotlib cannot draw.
                points = np.clip(finite, -99, 99)
                (line,) = axes.plot(*points.T, '.-', linewidth=0.8, markersize=2.5)
                axes.plot(*points[0], 'o', color=line.get_color(), mfc='white')
                axes.plot(*points[-1], 'o', color=line.get_color(), mec='white')
            axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
            half = '/2' if name in CONTROLS else ''
            axes.set_title(f'{name}, {rate:g}{half}', fontsize=8)
        row[0].set_ylabel(function.title)
    figure.savefig(path, dpi=100)


def draw_rates(path: Path, record: dict[str, Any]) -> None:
    """Draws the median loss of the search's starts by learning rate."""
    functions = record['functions']
    names = present(CURVES, next(iter(functions.values())))
    figure = Figure(figsize=(12, 7), layout='constrained')
    panels = figure.subplots(2, 3).flat
    for axes, (title, of) in zip(panels, functions.items(), strict=False):
        curves = {name: medians(of[name]) for name in names}
        for name, curve in curves.items():
            axes.loglog(RATES, curve, '.-', label=name)
        if 'adam' in curves:
            label = 'adam, at half of the rate'
            axes.loglog(2 * np.array(RATES), curves['adam'], 'k:', label=label)
        # What grows without bound leaves the picture.
        axes.set_ylim(top=10 * curves[names[0]][0])
        axes.set_title(FUNCTIONS[title].title)
        axes.set_xlabel('learning rate')
    for axes in figure.axes[::3]:
        axes.set_ylabel('median loss')
    for axes in figure.axes[len(functions) :]:
        axes.axis('off')
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.axes[-1].legend(handles, labels, loc='center')
    figure.savefig(path, dpi=90)


def present(wanted: tuple[str, ...], of: dict[str, Any]) -> list[str]:
    """Those of `wanted` that were run, or else the first that was."""
    return [name for name in wanted if name in of] or list(of)[:1]


def medians(outcome: dict[str, Any]) -> np.ndarray:
    """For each rate; no number where it diverged."""
    return np.maximum(np.array(outcome['search'], float), SOLVED)
