"""Trains the same network with several optimizers and seeds, side by side.

python -m experiments.cifar.compare --optimizers adam adam-half diffgrad --seeds 0 1 2

It is a plan of one table, whose settings are flags.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cifar.config import CHANGED_ON_RESUME, Settings
from experiments.cifar.plan import run
from experiments.lab import cli
from experiments.lab.cli import option
from experiments.lab.plans import Plan, Row, Table
from experiments.lab.report import Results


@dataclass(frozen=True)
class Comparison(Settings):
    """Everything that a comparison is told."""

    optimizers: tuple[str, ...] = option(
        ('adam', 'adam-half', 'diffgrad'), 'each is trained in the same way'
    )
    seeds: tuple[int, ...] = option((0, 1, 2), 'each optimizer is trained with each')


def compare(comparison: Comparison) -> Results:
    """Trains every optimizer with every seed; what is trained already is not again.

    Raises:
      UserError: as `run_plan`.
    """
    settings = dataclasses.asdict(comparison)
    dataset, size = settings.pop('dataset'), settings.pop('batch_size')
    for name in ('optimizers', 'seeds', *CHANGED_ON_RESUME):
        del settings[name]
    rows = tuple(
        Row(name, {'optimizer': name}, {})
        for name in dict.fromkeys(comparison.optimizers)
    )
    plan = Plan(
        name='compare',
        part='',
        scale=settings
        | {
            'checkpoint_every': comparison.checkpoint_every,
            'non_finite': comparison.non_finite,
        },
        tables=(Table('curves', '', rows, (size,), (dataset,)),),
        seeds=tuple(dict.fromkeys(comparison.seeds)),
        metrics=('test_accuracy', 'train_loss'),
    )
    default = Path('runs') / f'compare-{dataset}-{comparison.model}'
    return run(plan, comparison.out_dir or default, comparison.data_dir)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    compare(cli.parse(Comparison, argv, description=__doc__))


if __name__ == '__main__':
    cli.run(main)
