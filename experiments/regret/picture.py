"""Average regret beside the bound, and where the points go; from the record."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_regret(path: Path, problems: dict[str, Any]) -> None:
    """Draws R(T)/T over T for each problem, with diffGrad's bound.

    Args:
      path: of the PNG file.
      problems: the record's.
    """
    columns = min(4, len(problems))
    lines = -(-len(problems) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout='constrained')
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in panels[len(problems) :]:
        unused.remove()
    for axes, (title, problem) in zip(panels, problems.items(), strict=False):
        rounds = np.array(problem['checkpoints'])
        for (name, of), color in zip(
            problem['optimizers'].items(), colormaps['tab10'](range(10)), strict=False
        ):
            average = np.array(of['regret']) / rounds
            axes.loglog(rounds, average, label=name, color=color)
        bound = np.sum(list(problem['theorem'].values()), axis=0)
        axes.loglog(rounds, bound / rounds, 'k--', label='bound of Theorem 1')
        axes.set_title(title)
        axes.set_xlabel('T')
        axes.set_ylabel('R(T)/T')
        axes.grid(alpha=0.3)
    finish(figure, path)


def draw_points(path: Path, problems: dict[str, Any]) -> None:
    """Draws where the points of linear losses are: the best is at -1.

    Args:
      path: of the PNG file.
      problems: those of the record that have points.
    """
    figure = Figure(figsize=(4.2 * len(problems), 3.6), layout='constrained')
    panels = figure.subplots(1, len(problems), squeeze=False).ravel()
    for axes, (title, problem) in zip(panels, problems.items(), strict=True):
        for (name, of), color in zip(
            problem['optimizers'].items(), colormaps['tab10'](range(10)), strict=False
        ):
            mean = np.mean(of['points'], axis=1)
            axes.semilogx(problem['checkpoints'], mean, label=name, color=color)
        axes.set_ylim(-1.05, 1.05)
        axes.set_title(f'{title}: x, the best is -1')
        axes.set_xlabel('round')
        axes.grid(alpha=0.3)
    finish(figure, path)


def finish(figure: Figure, path: Path) -> None:
    """One legend for all panels, below them."""
    axes: Axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    figure.savefig(path, dpi=90)
