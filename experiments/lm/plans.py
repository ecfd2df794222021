"""What is compared: optimizers, networks, learning rates and seeds.

Every arm of a network has as many rates, and the same epochs and seeds.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.lab.cli import UserError
from experiments.lm.config import Config


class Arm(NamedTuple):
    """An optimizer, and what its learning rates are multiplied by."""

    optimizer: str
    factor: float
    style: dict[str, Any]


ARMS = {
    'sgd (rates × 1000)': Arm('sgd', 1000.0, {'color': 'tab:grey'}),
    'adam': Arm('adam', 1.0, {'color': 'tab:blue'}),
    'adam-half': Arm(
        'adam-half', 1.0, {'color': 'tab:blue', 'linestyle': '--', 'zorder': 3}
    ),
    'adabelief': Arm('adabelief', 1.0, {'color': 'tab:green'}),
    'adadiff': Arm('adadiff+eps_root', 1.0, {'color': 'tab:red'}),
    'diffgrad': Arm('diffgrad', 1.0, {'color': 'tab:orange'}),
}


class Plan(NamedTuple):
    """What is trained."""

    models: Mapping[str, Config]
    rates: tuple[float, ...]  # of every arm, times its factor
    seeds: tuple[int, ...]

    def configs(self, model: str) -> dict[tuple[str, float, int], Config]:
        """What each run is told, by arm, rate and seed; one seed after another."""
        return {
            (name, rate, seed): dataclasses.replace(
                self.models[model],
                optimizer=arm.optimizer,
                learning_rate=arm.factor * rate,
                seed=seed,
            )
            for seed in self.seeds
            for name, arm in ARMS.items()
            for rate in self.rates
        }


def embedded(data_dir: Path | None) -> Plan:
    """One layer of width 64 on the first bytes of Python's documentation."""
    small = Config(
        data_dir=data_dir,
        layers=1,
        width=64,
        hidden=64,
        context=64,
        batch_size=8,
        limit_train=40_000,
        epochs=3,
        checkpoint_every=3,
        clip=0.25,
    )
    models = {
        'lstm': dataclasses.replace(small, model='lstm'),
        'transformer': dataclasses.replace(small, hidden=None),
    }
    return Plan(models, (1e-3, 4e-3, 1.6e-2), (0, 1, 2))


def large(data_dir: Path | None) -> Plan:
    """Networks of millions of weights on all of the embedded text, for a GPU."""
    config = Config(
        data_dir=data_dir,
        layers=2,
        width=512,
        context=256,
        batch_size=16,
        epochs=10,
        checkpoint_every=5,
        clip=0.25,
    )
    models = {
        'lstm': dataclasses.replace(config, model='lstm', hidden=1024),
        'transformer': dataclasses.replace(config, layers=6, heads=8, dropout=0.1),
    }
    return Plan(models, (5e-4, 2e-3, 8e-3), (0, 1, 2))


def paper(data_dir: Path | None) -> Plan:
    """AdaDiff's LSTM of two layers, and a Transformer of its size, on words."""
    if data_dir is None:
        raise UserError(
            '--scale paper needs --data-dir: a folder with train.txt, valid.txt and '
            'test.txt, such as the Penn Treebank'
        )
    large = Config(
        data_dir=data_dir,
        tokens='words',
        layers=2,
        width=400,
        context=70,
        batch_size=20,
        checkpoint_every=20,
        clip=0.25,
        weight_decay=1.2e-6,
    )
    models = {
        'lstm': dataclasses.replace(
            large, model='lstm', hidden=1150, awd=True, epochs=200, schedule='drops'
        ),
        'transformer': dataclasses.replace(
            large, layers=6, heads=10, dropout=0.3, epochs=40
        ),
    }
    return Plan(models, (2.5e-3, 1e-2, 4e-2), (0, 1, 2))


def smoke(data_dir: Path | None) -> Plan:
    """The least that goes all ways."""
    plan = embedded(data_dir)
    models = {
        name: dataclasses.replace(
            config, width=8, hidden=8, limit_train=2200, epochs=1, context=16
        )
        for name, config in plan.models.items()
    }
    return Plan(models, (4e-3,), (0,))


SCALES = {'embedded': embedded, 'large': large, 'paper': paper, 'smoke': smoke}
