"""What is compared, and on what: every number of the study."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cifar.config import Config

CONTROL = 'adam-half'
MIXTURE = 'study-radamw+nesterov+noise+lr_dropout+lookahead'

# The study's 18, and the mixture of what it has that must train too.
GROUPS = {
    'sgd': (
        'study-sgd',
        'study-momentum',
        'study-nesterov',
        'study-sgdw',
        'study-momentum-lr_dropout',
    ),
    'adam': (
        'study-rmsprop',
        'study-adam',
        'study-adam-l2',
        'study-adamw',
        'study-nadam',
        'study-adam-lr_dropout',
    ),
    'radam': ('study-radam', 'study-radamw', 'study-radam-lr_dropout'),
    'lookahead-and-noise': (
        'study-lookahead-momentum',
        'study-lookahead-adam',
        'study-adam-noise',
        'study-adam-grad_dropout',
        MIXTURE,
    ),
}
ARMS = (CONTROL, *(name for names in GROUPS.values() for name in names))


@dataclass(frozen=True)
class Experiment:
    """A network on a data set, the same for every optimizer."""

    dataset: str
    model: str
    width: int = 64
    batch_size: int = 128
    epochs: int = 30
    limit_train: int | None = None  # images; None is all
    limit_test: int | None = None
    learning_rate: float = 1e-3
    schedule: str = 'plateau'


EXPERIMENTS = {
    # Of 1,437 images, so that batches of 128 would be 330 steps in all.
    'digits': Experiment('digits', 'mlp', batch_size=32),
    'mnist': Experiment('mnist', 'mlp'),
    'cifar10': Experiment('cifar10', 'cnn'),
    'cifar10-small': Experiment(
        'cifar10', 'cnn', width=8, epochs=10, limit_train=2000, limit_test=1000
    ),
}


def plan(
    experiment: Experiment, seeds: Sequence[int], data_dir: Path | None = None
) -> dict[str, Config]:
    """Every run by its name: all optimizers with one seed, then with the next."""
    return {
        f'{arm}-seed{seed}': Config(
            **dataclasses.asdict(experiment),
            optimizer=arm,
            seed=seed,
            data_dir=data_dir,
            checkpoint_every=experiment.epochs,
        )
        for seed in seeds
        for arm in ARMS
    }


def short(arm: str) -> str:
    """The name of an optimizer in a table where all are the study's."""
    return 'mixture' if arm == MIXTURE else arm.removeprefix('study-')
