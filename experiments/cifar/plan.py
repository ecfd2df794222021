r"""Runs what is missing of a plan of image classifiers, and draws what there is.

python -m experiments.cifar.plan --plan tables
python -m experiments.cifar.plan --plan study --scale mnist --minutes 60

The same command goes on where it was stopped, in the middle of a run too; with
`--minutes 0` it draws what there is.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cifar.config import Config, check_numbers
from experiments.cifar.train import data_checksum, train
from experiments.lab import cli, plans
from experiments.lab.cli import UserError, option
from experiments.lab.optimizers import compose
from experiments.lab.plans import Plan
from experiments.lab.processes import silent
from experiments.lab.report import Results
from experiments.lab.runner import run_plan

PLANS = Path(__file__).parent / 'plans'
TINY = {
    'width': 2,
    'epochs': 1,
    'limit_train': 128,
    'limit_test': 64,
    'checkpoint_every': 1,
}


@dataclass(frozen=True)
class Settings:
    """Which part of which plan is run."""

    plan: Path = option(
        Path('tables'), 'a TOML file: that of the paper, tables, study, or one of yours'
    )
    scale: str | None = option(None, "of the runs; left out, the plan's first")
    tables: tuple[str, ...] | None = option(None, 'which to fill; left out, all')
    datasets: tuple[str, ...] | None = option(
        None, "which of the scale's to train on; left out, all"
    )
    seeds: tuple[int, ...] | None = option(
        None, "each row is run with each; left out, the plan's"
    )
    minutes: float | None = option(None, 'after which no run is begun')
    data_dir: Path | None = option(
        None,
        "where CIFAR's folders or archives are, or MNIST's four files; left out, they "
        'are fetched and cached',
    )
    images: str | None = option(
        None, "what the images are, for the page; left out, the data sets' names"
    )
    out_dir: Path | None = option(
        None, 'where everything is written; left out, a folder in runs'
    )
    smoke: bool = option(False, 'two tiny runs on digits, to see that everything works')


def configure(settings: dict[str, Any], data_dir: Path | None = None) -> Config:
    """What one run is told.

    Raises:
      UserError: if a setting does not exist or has no such value.
    """
    try:
        config = Config(**settings, data_dir=data_dir)
    except TypeError as error:
        raise UserError(f'the plan does not fit: {error}') from error
    check_numbers(config)
    decay, friction = config.weight_decay, config.friction
    compose(config.optimizer, weight_decay=decay, friction=friction)
    return config


def run(plan: Plan, out_dir: Path, data_dir: Path | None, **kwargs: Any) -> Results:
    """As `run_plan`, with the trainer of image classifiers."""
    return run_plan(
        plan,
        out_dir,
        configure=functools.partial(configure, data_dir=data_dir),
        train=functools.partial(train, say=silent),
        checksum=data_checksum,
        **kwargs,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = cli.parse(Settings, argv, description=__doc__)
    cli.at_least(settings, minutes=0)
    ours = PLANS / f'{settings.plan}.toml'
    plan = plans.load(
        ours if ours.exists() else settings.plan,
        scale=settings.scale,
        tables=settings.tables,
        datasets=settings.datasets,
        seeds=settings.seeds,
    )
    if settings.smoke:
        plan = plan.tiny(TINY)
    run(
        plan,
        settings.out_dir or Path('runs') / plan.name,
        settings.data_dir,
        minutes=settings.minutes,
        images=settings.images,
    )


if __name__ == '__main__':
    cli.run(main)
