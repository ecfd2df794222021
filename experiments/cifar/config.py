"""What a run is told."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffgrad_optax.friction import COEFFICIENTS
from experiments.lab import cli
from experiments.lab.cli import UserError, option
from experiments.lab.optimizer_parts import BASES, MODIFIERS, NAMES

# What a run may be told otherwise when it goes on.
CHANGED_ON_RESUME = ('data_dir', 'out_dir', 'resume', 'checkpoint_every', 'non_finite')


@dataclass(frozen=True)
class Settings:
    """What runs that are compared share."""

    dataset: Literal['digits', 'mnist', 'cifar10', 'cifar100'] = option(
        'digits', 'what to learn; digits come with scikit-learn and need no network'
    )
    data_dir: Path | None = option(
        None,
        "where CIFAR's folder or .tar.gz is, or MNIST's four files; left out, they are "
        'fetched and cached',
    )
    limit_train: int | None = option(None, 'use only the first N training images')
    limit_test: int | None = option(None, 'use only the first N test images')
    model: Literal['resnet18', 'resnet34', 'resnet50', 'densenet121', 'cnn', 'mlp'] = (
        option('resnet50', 'the network')
    )
    width: int = option(
        64, "features of the network's first layers; hidden units of mlp"
    )
    activation: Literal['relu', 'leaky_relu', 'elu', 'selu'] = option(
        'relu', 'the nonlinearity'
    )
    precision: Literal['float32', 'bfloat16'] = option(
        'float32', 'of the computation; parameters and statistics are float32'
    )
    learning_rate: float | None = option(
        None, "the largest of the schedule; left out, the optimizer's"
    )
    schedule: Literal[
        'drop', 'constant', 'plateau', 'inverse', 'halving', 'triangular'
    ] = option(
        'drop',
        'of the learning rate: a tenth for the last 20%% of the epochs, the same '
        'always, a tenth after 5 epochs without a new lowest training loss, down to a '
        'tenth by 1/(1 + kt), half after every fifth, or up and down between a tenth '
        'and all of it',
    )
    friction: str | None = option(
        None, f'of an optimizer that has it: {", ".join(COEFFICIENTS)}'
    )
    weight_decay: float | None = option(
        None, 'of an optimizer with decoupled decay, else coupled'
    )
    batch_size: int = option(128, 'images in a step, over all devices')
    epochs: int = option(100, 'passes over the training images')
    checkpoint_every: int = option(1, 'epochs from one checkpoint to the next')
    non_finite: Literal['stop', 'skip'] = option(
        'stop',
        'what to do at a step with an infinity or a NaN: stop the run, or leave '
        'everything as it was and take the next one',
    )
    out_dir: Path | None = option(
        None,
        'where everything is written; left out, a folder in runs named by the settings',
    )
    resume: bool = option(True, 'continue a run that is in the folder already')


@dataclass(frozen=True)
class Config(Settings):
    """Everything that a run is told."""

    optimizer: str = option(
        'diffgrad',
        f'a base ({", ".join(BASES)}) or a name ({", ".join(NAMES)}), and modifiers '
        f'joined to it by + ({", ".join(MODIFIERS)}), each with =VALUE or without',
    )
    seed: int = option(0, 'of the initialisation, the order and the augmentation')

    def settings(self) -> dict[str, Any]:
        """What decides the result, and so may not change when a run goes on."""
        settings = dataclasses.asdict(self)
        for name in CHANGED_ON_RESUME:
            del settings[name]
        return settings


def check_numbers(config: Config) -> None:
    """Refuses counts below one and seeds that a key cannot hold."""
    if not 0 <= config.seed < 2**32:
        raise UserError(f'--seed {config.seed} must be in 0 … 4294967295')
    cli.at_least(
        config,
        batch_size=1,
        checkpoint_every=1,
        epochs=1,
        limit_test=1,
        limit_train=1,
        width=1,
    )


def default_out_dir(config: Config) -> Path:
    """A folder for each configuration's main settings."""
    return Path('runs') / (
        f'{config.dataset}-{config.model}-{config.optimizer}'
        f'-batch{config.batch_size}-seed{config.seed}'
    )
