"""What is run: networks, arms, learning rates, seeds and factors of the loss.

An arm is an optimizer and, where it is a control, what it controls. Every arm of a
network has the same rates, seeds and epochs.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.cifar.config import Config as CifarConfig
from experiments.cifar.train import data_checksum as cifar_checksum
from experiments.cifar.train import train as train_cifar
from experiments.half_rate.friction_by_layer import compact
from experiments.lab.cli import UserError
from experiments.lab.friction_histogram import read
from experiments.lab.processes import silent
from experiments.lab.record import Record, run_missing
from experiments.lm.config import Config as LmConfig
from experiments.lm.train import data_checksum as lm_checksum
from experiments.lm.train import train as train_lm

ARMS = {
    'adam': 'adam',
    'adam-half': 'adam-half',
    'diffgrad': 'diffgrad+observed',
    'diffgrad-frozen': 'adam+frozen',
    'relative': 'adam+friction=relative_dfc+observed',
    'relative-frozen': 'adam+frozen',
}

# Adam times the mean of another arm's ξ, array by array.
FROZEN = {'diffgrad-frozen': 'diffgrad', 'relative-frozen': 'relative'}

# Arms that are also run with the loss multiplied.
SCALED = ('adam', 'diffgrad', 'diffgrad-frozen', 'relative')
FACTORS = (0.01, 100.0)


class Run(NamedTuple):
    """One training."""

    arm: str
    rate: float
    seed: int
    factor: float = 1.0  # of the loss

    @property
    def name(self) -> str:
        return f'{self.arm}-rate{self.rate:g}-seed{self.seed}-loss{self.factor:g}'


class Network(NamedTuple):
    """What is trained, and with what."""

    config: Any  # of all runs
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    close: float  # the rate that is looked at closely
    arms: tuple[str, ...] = tuple(ARMS)
    scaled: tuple[str, ...] = SCALED  # at that rate, with the loss multiplied

    @property
    def score(self) -> str:
        """What the arms are compared by; the learning rate is not chosen by it."""
        return 'valid_loss' if isinstance(self.config, LmConfig) else 'test_accuracy'

    @property
    def train(self) -> Callable[..., Any]:
        return train_lm if isinstance(self.config, LmConfig) else train_cifar

    @property
    def checksum(self) -> Callable[[Any], str]:
        lm = isinstance(self.config, LmConfig)
        return lm_checksum if lm else cifar_checksum

    def runs(self) -> list[Run]:
        """All of them, seed by seed, those that others need first."""
        plain = [(arm, rate, 1.0) for arm in self.arms for rate in self.rates]
        plain += [
            (arm, self.close, factor) for arm in self.scaled for factor in FACTORS
        ]
        plain.sort(key=lambda of: (of[0] in FROZEN, of[1] != self.close))
        return [
            Run(arm, rate, seed, factor)
            for seed in self.seeds
            for arm, rate, factor in plain
        ]


def config_of(network: Network, run: Run, record: Record) -> Any:
    """What `run` is told; None while what it needs has no line, or if that diverged."""
    optimizer = ARMS[run.arm]
    if run.arm in FROZEN:
        other = find(network, run._replace(arm=FROZEN[run.arm]), record)
        if other is None or not other['metrics']:
            return None
        optimizer += '=' + ','.join(f'{factor:.6g}' for factor in mean_by_array(other))
    if run.factor != 1.0:
        optimizer += f'+loss_scale={run.factor:g}'
    return dataclasses.replace(
        network.config, optimizer=optimizer, learning_rate=run.rate, seed=run.seed
    )


def find(network: Network, run: Run, record: Record) -> dict[str, Any] | None:
    """The line of `run`, if there is one.

    A control of a run that diverged cannot be run, and has that one's.
    """
    config = config_of(network, run, record)
    if config is None:
        return find(network, run._replace(arm=FROZEN[run.arm]), record)
    return record.find(config)


def results(network: Network, record: Record) -> dict[Run, dict[str, Any]]:
    """The lines that there are."""
    lines = ((run, find(network, run, record)) for run in network.runs())
    return {run: line for run, line in lines if line is not None}


def mean_by_array(line: Mapping[str, Any]) -> np.ndarray:
    """ξ of each array, its mean over the elements and all steps of a run."""
    epochs = [metrics['friction']['excess'] for metrics in line['metrics']]
    return 0.5 + np.mean(epochs, axis=0)


def run_network(
    network: Network, path: Path, runs_dir: Path, deadline: float = math.inf
) -> dict[Run, dict[str, Any]]:
    """Runs what `path` has no line of; returns all lines that there are.

    After `deadline`, in `time.monotonic`, no run is begun.

    Controls come last, because they are told what the others came to.
    """

    def train(config: Any) -> Any:
        result = network.train(config, silent, read)
        first = (
            config.seed == network.seeds[0] and config.learning_rate == network.close
        )
        for metrics in result.metrics:
            if 'friction' in metrics:
                metrics['friction'] = compact(metrics['friction'], layers=first)
        return result

    record = Record(path)
    for seed in network.seeds:
        for _ in ('what is observed', 'what is told of it'):
            configs = {
                run.name: config_of(network, run, record)
                for run in network.runs()
                if run.seed == seed
            }
            record = run_missing(
                path,
                {
                    name: config
                    for name, config in configs.items()
                    if config is not None
                },
                train,
                checksum=network.checksum,
                runs_dir=runs_dir,
                minutes=(deadline - time.monotonic()) / 60,
                say=functools.partial(print, flush=True),
            )
    return results(network, record)


def embedded(data_dir: Path | None) -> dict[str, Network]:
    """Small networks on what comes with Python and scikit-learn, and some of CIFAR."""
    rates = (5e-4, 2e-3, 8e-3, 3.2e-2)
    networks = {
        'resnet50': Network(
            CifarConfig(width=8, batch_size=64, epochs=4, checkpoint_every=4),
            rates,
            (0, 1, 2, 3, 4),
            close=2e-3,
        ),
        'transformer': Network(
            LmConfig(
                width=32,
                layers=2,
                context=64,
                limit_train=50_000,
                epochs=3,
                checkpoint_every=3,
            ),
            rates,
            (0, 1),
            close=2e-3,
        ),
    }
    if data_dir is not None:
        config = CifarConfig(
            dataset='cifar10',
            data_dir=data_dir,
            limit_train=2000,
            limit_test=1000,
            width=8,
            batch_size=64,
            epochs=3,
        )
        networks['cifar10'] = Network(
            config, (1e-3,), (0,), 1e-3, arms=('diffgrad',), scaled=()
        )
    return networks


def paper(data_dir: Path | None) -> dict[str, Network]:
    """The paper's network and a Transformer of 19 million parameters, for a GPU.

    Raises:
      UserError: without the paper's images.
    """
    if data_dir is None:
        raise UserError('--scale paper needs CIFAR-10: name its folder with --data-dir')
    rates = (1.25e-4, 5e-4, 2e-3, 8e-3, 3.2e-2)
    seeds = (0, 1, 2)
    transformer = LmConfig(
        width=512, layers=6, heads=8, context=256, batch_size=32, epochs=6
    )
    resnet = CifarConfig(
        dataset='cifar10', data_dir=data_dir, epochs=30, precision='bfloat16'
    )
    return {
        'transformer': Network(transformer, rates, seeds, close=5e-4),
        'resnet50': Network(resnet, rates, seeds, close=5e-4),
    }


def smoke(data_dir: Path | None) -> dict[str, Network]:
    """The least that goes all ways."""
    del data_dir
    digits = CifarConfig(
        model='mlp', width=4, batch_size=128, epochs=2, limit_train=256, limit_test=64
    )
    return {'mlp': Network(digits, (1e-3, 1e-2), (0, 1), close=1e-3)}


SCALES = {'embedded': embedded, 'paper': paper, 'smoke': smoke}
