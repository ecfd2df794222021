"""What the study shows: a table, and a picture for each group of optimizers."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab.axes import plain_log_scale
from experiments.lab.grid import Metrics, last
from experiments.lab.record import Record
from experiments.lab.tables import markdown, summary
from experiments.study.experiments import (
    ARMS,
    CONTROL,
    GROUPS,
    Experiment,
    plan,
    short,
)

WINDOW = 3  # epochs
COLUMNS = {
    'train_loss': ('training loss', 1.0, 4),
    'test_loss': ('validation loss', 1.0, 4),
    'test_accuracy': ('validation accuracy (%)', 100.0, 2),
}

Runs = dict[str, list[Metrics]]  # of each optimizer


def by_arm(record: Record, experiment: Experiment) -> Runs:
    """The runs of an experiment, in the order of their seeds."""
    seeds = sorted({run['settings']['seed'] for run in record.runs})
    runs: Runs = {arm: [] for arm in ARMS}
    for config in plan(experiment, seeds).values():
        if (run := record.find(config)) is not None:
            runs[config.optimizer].append(run['metrics'])
    return runs


def table(runs: Runs) -> str:
    """The last epoch: mean ± sample standard deviation over the seeds that ended."""
    titles = [title for title, _, _ in COLUMNS.values()]
    rows = []
    groups = {arm: group for group, arms in GROUPS.items() for arm in arms}
    for arm, of_arm in runs.items():
        cells = [
            summary([scale * value for value in last(of_arm, key)], digits, 0)
            or 'not run'
            for key, (_, scale, digits) in COLUMNS.items()
        ]
        group = groups.get(arm, 'control')
        rows.append([group, f'`{short(arm)}`', *cells, str(len(of_arm))])
    return markdown(['group', 'optimizer', *titles, 'seeds'], rows, left=2)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The running mean over WINDOW epochs around each; over fewer at the ends."""
    inside = np.ones(WINDOW)
    counts = np.convolve(np.ones(len(values)), inside, 'same')
    return np.convolve(values, inside, 'same') / counts


def draw_group(path: Path, runs: Runs, group: str, title: str) -> None:
    """Draws the losses of a group beside the control, smoothed over raw ones.

    Args:
      path: of the PNG file.
      runs: of all optimizers.
      group: one of GROUPS.
      title: what was trained.
    """
    figure = Figure(figsize=(10, 4.6), layout='constrained')
    for axes, key in zip(
        figure.subplots(1, 2, sharey=True), ('train_loss', 'test_loss'), strict=True
    ):
        for index, arm in enumerate((CONTROL, *GROUPS[group])):
            losses = [[line[key] for line in run] for run in runs[arm]]
            draw_arm(axes, losses, arm, index)
        axes.set_title(f'{COLUMNS[key][0]}, mean over {WINDOW} epochs; pale: each run')
        axes.set_xlabel('epoch')
        plain_log_scale(axes)
        axes.grid(alpha=0.3, which='both')
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4)
    figure.suptitle(title)
    figure.savefig(path, dpi=90)


def draw_arm(axes: Axes, losses: list[list[float]], arm: str, index: int) -> None:
    """Draws each run as it is, and their mean smoothed; nothing of no runs.

    Runs that diverged have no losses; how many there are is said.
    """
    if not losses:
        return
    ended = np.array([of_run for of_run in losses if of_run])
    mean = smoothed(ended.mean(0)) if len(ended) else ended
    epochs = np.arange(1, len(mean) + 1)
    label = short(arm)
    if diverged := len(losses) - len(ended):
        label += f', {diverged} diverged'
    color = 'black' if arm == CONTROL else f'C{index - 1}'
    axes.plot(epochs, ended.T, color=color, alpha=0.2, linewidth=0.8)
    axes.plot(
        epochs,
        mean,
        color=color,
        linestyle='--' if arm == CONTROL else '-',
        # Thinner and thinner, because some are the same to the eye.
        linewidth=4.2 - 0.5 * index,
        label=label,
        zorder=2 + 0.01 * index,
    )
