"""What is compared: every optimizer and every workload is an entry in a table."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import optax
import optax.contrib

from diffgrad_optax import (
    adadiff,
    diffgrad,
    diffrgrad,
    mars,
    quantize_state,
    scale_by_gains,
)
from experiments.comparison import tasks
from experiments.comparison.tasks import Task

Make = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer, and where the search for its learning rate begins.

    Args:
      make: makes it of a learning rate.
      relative: its first grid of rates, compared with Adam's: a power of two.
      friction: the name of its friction, whose mean is recorded.
      constant: whether its rate is constant, without warm-up and decay.
      tuned: whether it has a rate to tune.
    """

    make: Make
    relative: int = 0
    friction: str | None = None
    constant: bool = False
    tuned: bool = True


@dataclass(frozen=True)
class Plan:
    """How learning rates are tuned and chosen ones scored.

    Args:
      rates: of the first grid, each twice the one before.
      extensions: how often the grid is extended by two rates if the best is at its end.
      tuning_seeds: at every rate.
      more_seeds: at the best rate and its neighbors, of `finalists`.
      seeds: other ones, that score the chosen rate of `finalists` on test data.
      finalists: names of optimizers; None is all.
    """

    rates: int = 6
    extensions: int = 4
    tuning_seeds: int = 3
    more_seeds: int = 0
    seeds: int = 10
    finalists: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Workload:
    """What is learned, for how long, and by whom.

    Args:
      version: changes with whatever changes results and is no other setting.
      steps: of a run.
      batch: examples a step; 0 is all.
      rate: Adam's, about which first grids are centered: an exponent of two.
      decay: the part of each matrix that decays in a step at the largest rate.
      clip: the largest norm of the gradient; 0 does not clip.
      points: of the learning curve.
      at_once: the most runs that are trained in one compiled program.
      files: whether its data are files in --data-dir.
    """

    task: Task
    version: int
    steps: int
    batch: int
    rate: int
    optimizers: tuple[str, ...]
    decay: float = 0.0
    clip: float = 0.0
    points: int = 25
    at_once: int = 18
    files: bool = False
    plan: Plan = Plan()


OPTIMIZERS = {
    'adamw': Optimizer(optax.adam),
    'nadamw': Optimizer(optax.nadam),
    'sgd': Optimizer(functools.partial(optax.sgd, momentum=0.9), relative=4),
    'adabelief': Optimizer(optax.adabelief),
    'adan': Optimizer(optax.adan, relative=1),
    'lion': Optimizer(functools.partial(optax.lion, weight_decay=0.0), relative=-3),
    'muon': Optimizer(optax.contrib.muon, relative=1),
    'diffgrad': Optimizer(diffgrad, relative=1, friction='dfc'),
    'relative': Optimizer(
        functools.partial(diffgrad, friction='relative_dfc'),
        relative=1,
        friction='relative_dfc',
    ),
    'diffrgrad': Optimizer(diffrgrad, relative=1, friction='dfc'),
    'adadiff': Optimizer(adadiff, relative=1),
    'mars': Optimizer(mars),
    'adamw-8bit': Optimizer(
        lambda rate: quantize_state(optax.adam(rate), min_size=512)
    ),
    'diffgrad-8bit': Optimizer(
        lambda rate: quantize_state(diffgrad(rate), min_size=512), relative=1
    ),
    'gains': Optimizer(
        lambda rate: optax.chain(scale_by_gains(), optax.sgd(rate)), relative=4
    ),
    'gradient-descent': Optimizer(optax.sgd, relative=6, constant=True),
    'lbfgs': Optimizer(lambda rate: optax.lbfgs(), constant=True, tuned=False),
}
BASELINES = ('adamw', 'nadamw', 'sgd', 'adabelief', 'adan', 'lion', 'muon')
OURS = ('diffgrad', 'relative', 'diffrgrad', 'adadiff', 'mars')
IN_8_BITS = ('adamw-8bit', 'diffgrad-8bit')
OF_FULL_BATCHES = ('gains', 'gradient-descent', 'lbfgs')

WORKLOADS = {
    'mnist1d': Workload(
        tasks.MNIST1D,
        version=1,
        steps=2000,
        batch=32,
        rate=-7,
        decay=1e-4,
        optimizers=(*BASELINES, *OURS, *IN_8_BITS),
    ),
    'autoencoder': Workload(
        tasks.AUTOENCODER,
        version=1,
        steps=3000,
        batch=64,
        rate=-8,
        decay=1e-5,
        optimizers=(*BASELINES, *OURS),
    ),
    'logistic': Workload(
        tasks.LOGISTIC,
        version=2,
        steps=200,
        batch=0,
        rate=-2,
        optimizers=(*BASELINES, *OURS, *OF_FULL_BATCHES),
    ),
    'least_squares': Workload(
        tasks.LEAST_SQUARES,
        version=2,
        steps=200,
        batch=0,
        rate=-2,
        optimizers=(*BASELINES, *OURS, *OF_FULL_BATCHES),
    ),
    'chars': Workload(
        tasks.CHARACTERS,
        version=1,
        steps=1000,
        batch=16,
        rate=-8,
        decay=1e-4,
        clip=1.0,
        at_once=1,
        files=True,
        optimizers=(*BASELINES, *OURS),
        plan=Plan(
            rates=5,
            extensions=2,
            tuning_seeds=1,
            more_seeds=2,
            seeds=5,
            finalists=('adamw', 'nadamw', 'muon', 'diffgrad', 'relative', 'mars'),
        ),
    ),
    'cifar': Workload(
        tasks.CIFAR10,
        version=1,
        steps=3000,
        batch=128,
        rate=-8,
        decay=1e-4,
        at_once=1,
        files=True,
        optimizers=('adamw', 'nadamw', 'diffgrad', 'mars'),
        plan=Plan(rates=3, extensions=2, tuning_seeds=1, seeds=3),
    ),
    'lstm': Workload(
        tasks.CHARACTERS_LSTM,
        version=1,
        steps=1500,
        batch=32,
        rate=-8,
        decay=1e-4,
        clip=1.0,
        at_once=1,
        files=True,
        optimizers=('adamw', 'adabelief', 'adadiff', 'diffgrad'),
        plan=Plan(rates=4, extensions=2, tuning_seeds=1, more_seeds=1, seeds=3),
    ),
}
