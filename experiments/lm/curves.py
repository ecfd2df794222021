"""A picture of training: both losses over the epochs."""

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw_losses(path: Path, metrics: list[dict[str, Any]], title: str) -> None:
    """Draws training and validation loss; a run does not fail because it cannot.

    Args:
      path: of the PNG file.
      metrics: of each epoch.
      title: of the picture.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    epochs = [line['epoch'] for line in metrics]
    for key, label in (('train_loss', 'training'), ('valid_loss', 'validation')):
        axes.plot(epochs, [line[key] for line in metrics], label=label, marker='.')
    axes.set_xlabel('epoch')
    axes.set_ylabel('loss (nats per token)')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        print(f'warning: {path} is not drawn: {error.strerror}', file=sys.stderr)
