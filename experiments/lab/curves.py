"""Pictures of training: loss and accuracy over the epochs."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.lab.axes import plain_log_scale


def draw_curves(
    path: Path, runs: dict[str, list[list[dict[str, Any]]]], title: str
) -> None:
    """Draws training loss and test accuracy over the epochs.

    Args:
      path: of the PNG file.
      runs: for each label its runs, each a list of an epoch's metrics. Several
        runs are drawn as their mean and a band of one standard deviation.
      title: of the picture.
    """
    figure = Figure(figsize=(10, 4), layout='constrained')
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, key, scale in (
        (loss_axes, 'train_loss', 1.0),
        (accuracy_axes, 'test_accuracy', 100.0),
    ):
        for label, metrics in runs.items():
            epochs = min(len(run) for run in metrics)
            values = np.array([[line[key] for line in run[:epochs]] for run in metrics])
            values = scale * values
            x, mean = np.arange(1, epochs + 1), values.mean(0)
            (line,) = axes.plot(x, mean, label=label, marker='.' if epochs < 30 else '')
            if len(metrics) > 1:
                deviation = values.std(0, ddof=1)
                axes.fill_between(
                    x,
                    mean - deviation,
                    mean + deviation,
                    color=line.get_color(),
                    alpha=0.2,
                )
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.3, which='both')
    plain_log_scale(loss_axes)
    loss_axes.set_ylabel('training loss')
    accuracy_axes.set_ylabel('test accuracy (%)')
    accuracy_axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
