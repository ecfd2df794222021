"""The paper's panels: a function with the paths on it, the losses, the parameters."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.toy.functions import FUNCTIONS


def draw_paths(path: Path, paths: dict[str, dict[str, np.ndarray]]) -> None:
    """Draws a row of three panels for each function.

    Args:
      path: of the PNG file.
      paths: for each function's title and each optimizer's name its positions.
    """
    figure = Figure(figsize=(13, 3.6 * len(paths)), layout='constrained')
    rows = figure.subplots(len(paths), 3, squeeze=False)
    for (title, of), (curve, losses, positions) in zip(
        paths.items(), rows, strict=True
    ):
        function = FUNCTIONS[title]
        x = np.linspace(function.low, function.high, 500)
        value = np.asarray(function.value(x))
        curve.plot(x, value, color='0.7', zorder=0)
        # Apart from each other, because many end at the same place.
        heights = np.linspace(0.0, 0.25, len(of)) * np.ptp(value)
        colors = colormaps['tab20' if len(of) > 10 else 'tab10'](range(20))
        for (name, path_of), height, color in zip(
            of.items(), heights, colors, strict=False
        ):
            with np.errstate(over='ignore', invalid='ignore'):  # where it has diverged
                loss = np.asarray(function.value(path_of))
            steps = np.arange(len(path_of))
            style = {'label': name, 'linewidth': 1.2, 'color': color}
            losses.plot(steps, loss, **style)
            positions.plot(steps, path_of, **style)
            curve.plot(path_of, loss + height, linewidth=0.8, color=color)
            curve.plot(path_of[-1], loss[-1] + height, 'o', markersize=5, color=color)
        for minimum in function.minima:
            positions.axhline(minimum, color='0.7', linestyle=':', zorder=0)
        curve.set_xlim(function.low, function.high)
        curve.locator_params(axis='x', nbins=6)
        curve.set_ylim(value.min() - 0.05 * np.ptp(value), value.max() + heights[-1])
        positions.set_ylim(function.low, function.high)
        curve.set_title(f'{title}: paths, each lifted a little')
        curve.set_xlabel('parameter')
        losses.set_title('loss')
        losses.set_yscale('symlog', linthresh=1e-3)
        losses.set_xlabel('step')
        positions.set_title('parameter; dotted: minima')
        positions.set_xlabel('step')
    rows[0][2].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=90)
