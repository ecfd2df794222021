"""How large the runs are: every number that the tables' cells share."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from experiments.cifar.config import Config
from experiments.tables.paper import Cell


@dataclass(frozen=True)
class Scale:
    """Data sets, a network, how much it sees, and how often."""

    datasets: tuple[str, ...]
    model: str
    width: int
    epochs: int
    limit_train: int | None  # images; None is all
    limit_test: int | None
    checkpoint_every: int  # epochs
    precision: str = 'float32'
    schedule: str = 'drop'  # a tenth for the last fifth of the epochs


CIFAR = ('cifar10', 'cifar100')
SCALES = {
    'digits': Scale(
        datasets=('digits',),
        model='resnet18',
        width=8,
        epochs=10,
        limit_train=None,
        limit_test=None,
        checkpoint_every=10,
    ),
    'small': Scale(
        datasets=CIFAR,
        model='resnet18',
        width=8,
        epochs=5,
        limit_train=2000,
        limit_test=2000,
        checkpoint_every=5,
    ),
    'paper': Scale(
        datasets=CIFAR,
        model='resnet50',
        width=64,
        epochs=100,
        limit_train=None,
        limit_test=None,
        checkpoint_every=10,
    ),
}


def tiny(scale: Scale) -> Scale:
    """The same in seconds, to see that it runs."""
    return dataclasses.replace(
        scale, width=2, epochs=1, limit_train=128, limit_test=64, checkpoint_every=1
    )


def configure(cell: Cell, scale: Scale, seed: int, data_dir: Path | None) -> Config:
    """What one run is told; learning rates are the optimizers' own."""
    shared = dataclasses.asdict(scale)
    del shared['datasets']
    return Config(**cell._asdict(), **shared, seed=seed, data_dir=data_dir)
