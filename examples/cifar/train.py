"""Trains an image classifier on CIFAR, MNIST or digits, with any optimizer there is.

python -m examples.cifar.train --dataset cifar10 --optimizer diffgrad
"""

import dataclasses
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from diffgrad_optax.friction import __all__ as frictions
from examples.cifar import data as datasets
from examples.cifar.data import Dataset, Split
from examples.cifar.training import (
    DeviceData,
    Metrics,
    Task,
    TrainState,
    data_parallel_mesh,
    epoch_order,
    evaluate,
    init_state,
    put_data,
    slow_weights,
    train_steps,
)
from examples.common import cli
from examples.common.cli import UserError, option
from examples.common.curves import draw_curves
from examples.common.optimizers import compose, make_optimizer
from examples.common.parts import BASES, MODIFIERS, NAMES
from examples.common.rates import Length, Plateau
from examples.common.run import RunDirectory


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
        None, f'of an optimizer that has it: {", ".join(frictions)}'
    )
    weight_decay: float | None = option(
        None, 'of an optimizer with decoupled decay, else coupled'
    )
    batch_size: int = option(128, 'images in a step, over all devices')
    epochs: int = option(100, 'passes over the training images')
    checkpoint_every: int = option(1, 'epochs from one checkpoint to the next')
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
        for name in ('data_dir', 'out_dir', 'resume', 'checkpoint_every'):
            del settings[name]
        return settings


@dataclass(frozen=True)
class Result:
    """What a finished run comes to."""

    correct: int
    count: int
    trained: int  # epochs in this call; the others were done before
    metrics: list[dict[str, Any]]  # of every epoch
    out_dir: Path


def train(config: Config, say: Callable[[str], None] = print) -> Result:
    """Trains as `config` says, or goes on with what is in its folder.

    Args:
      config: everything that the run is told.
      say: what to do with each line of the report.

    Raises:
      UserError: if something about `config` or the files is wrong.
    """
    check_numbers(config)
    composition = compose(
        config.optimizer, weight_decay=config.weight_decay, friction=config.friction
    )
    data = limited(datasets.load(config.dataset, config.data_dir), config)
    mesh = data_parallel_mesh()
    check_batch(config, len(data.train.labels), mesh.size)
    optimizer = make_optimizer(
        composition,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        length=Length(config.epochs, len(data.train.labels) // config.batch_size),
        seed=config.seed,
    )
    task, state = init_state(
        config.model,
        data=data,
        width=config.width,
        activation=config.activation,
        dtype=jnp.dtype(config.precision),
        optimizer=optimizer,
        lookahead=composition.lookahead,
        seed=config.seed,
        mesh=mesh,
    )
    out_dir = default_out_dir(config) if config.out_dir is None else config.out_dir
    settings = config.settings() | {'data_checksum': checksum(data)}
    with RunDirectory(
        out_dir, settings=settings, facts=facts(mesh), resume=config.resume
    ) as run:
        initial = state
        state, metrics = run.restore(initial)
        plateau = None
        if config.schedule == 'plateau':
            plateau = Plateau(
                optax.tree.get(initial.opt_state, 'learning_rate'),
                (line['train_loss'] for line in metrics),
            )
        epochs_done = len(metrics)
        for line in found(config, data, state, mesh, epochs_done):
            say(line)
        trainer = Trainer(config, task, put_data(data, mesh), mesh)
        if epochs_done < config.epochs:
            say(f'compiled   in {trainer.compile(state):.1f} s')
        try:
            for epoch in range(epochs_done + 1, config.epochs + 1):
                state, line = trainer.epoch(state, epoch)
                metrics.append(line)
                if plateau is not None:
                    state = with_rate(state, plateau.after(line['train_loss']))
                say(epoch_line(line))
                run.log(line)
                if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
                    run.save(state, epoch)
        finally:
            if metrics:
                name = f'{config.model} on {config.dataset}'
                draw_curves(out_dir / 'curves.png', {config.optimizer: [metrics]}, name)
    last = metrics[-1]
    say(
        f'test accuracy {last["test_accuracy"]:.2%} '
        f'({last["test_correct"]} of {last["test_count"]}); everything is in {out_dir}'
    )
    return Result(
        correct=last['test_correct'],
        count=last['test_count'],
        trained=len(metrics) - epochs_done,
        metrics=metrics,
        out_dir=out_dir,
    )


class Trainer:
    """Runs epochs of the compiled steps and shows how they go."""

    def __init__(
        self, config: Config, task: Task, data: DeviceData, mesh: jax.sharding.Mesh
    ) -> None:
        self.config = config
        self.task = task
        self.data = data
        self.mesh = mesh
        self.key = jax.random.key(config.seed)
        self.steps = len(data.train_labels) // config.batch_size
        self.chunk = steps_per_call(self.steps, jax.default_backend())

    def order(self, epoch: int) -> jax.Array:
        """The images of each step of an epoch, each batch split over the devices."""
        order = epoch_order(
            self.key,
            epoch,
            count=len(self.data.train_labels),
            batch_size=self.config.batch_size,
        )
        return jax.device_put(order, NamedSharding(self.mesh, P(None, 'data')))

    def compile(self, state: TrainState) -> float:
        """Makes the first calls, on a copy of `state`; returns the seconds it took."""
        start = time.perf_counter()
        order = self.order(1)[: self.chunk]
        copy = jax.tree.map(jnp.copy, state)
        copy, _ = train_steps(copy, self.data, order, self.key, task=self.task)
        jax.block_until_ready(self.evaluate(copy))
        return time.perf_counter() - start

    def evaluate(self, state: TrainState) -> Metrics:
        return evaluate(
            state,
            self.data,
            task=self.task,
            batch_size=self.config.batch_size,
            mesh=self.mesh,
        )

    def epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
        """One pass over the training images and one over the test images."""
        start = time.perf_counter()
        order = self.order(epoch)
        finished: list[Metrics] = []
        with tqdm(
            total=self.steps * self.config.batch_size,
            desc=f'epoch {epoch}/{self.config.epochs}',
            unit=' images',
            leave=False,
            disable=None,
        ) as bar:
            running: list[Metrics] = []
            for first in range(0, self.steps, self.chunk):
                state, metrics = train_steps(
                    state,
                    self.data,
                    order[first : first + self.chunk],
                    self.key,
                    task=self.task,
                )
                # Waits for the call before this one, so that the devices never do.
                finished += [self.show(bar, metrics) for metrics in running]
                running = [metrics]
            finished += [self.show(bar, metrics) for metrics in running]
        images = self.steps * self.config.batch_size
        rate = images / (time.perf_counter() - start)
        test = jax.device_get(self.evaluate(state))
        count = len(self.data.test_labels)
        line = {
            'epoch': epoch,
            'train_loss': float(sum(metrics.loss for metrics in finished)) / images,
            'train_accuracy': int(sum(metrics.correct for metrics in finished))
            / images,
            'test_loss': float(test.loss) / count,
            'test_accuracy': int(test.correct) / count,
            'test_correct': int(test.correct),
            'test_count': count,
            'images_per_second': rate,
            'seconds': time.perf_counter() - start,
        }
        return state, line

    def show(self, bar: Any, metrics: Metrics) -> Metrics:
        """Waits for the metrics of a call and moves the progress bar."""
        metrics = jax.device_get(metrics)
        images = self.chunk * self.config.batch_size
        bar.set_postfix(
            loss=f'{metrics.loss / images:.3f}',
            accuracy=f'{metrics.correct / images:.1%}',
            refresh=False,
        )
        bar.update(images)
        return metrics


def with_rate(state: TrainState, rate: jax.Array) -> TrainState:
    """`state` with another learning rate, where it holds one."""
    opt_state = optax.tree.set(state.opt_state, learning_rate=rate)
    return state._replace(opt_state=opt_state)


def steps_per_call(steps: int, backend: str) -> int:
    """How many steps one compiled call takes: a divisor of the epoch's `steps`.

    One on a CPU, where XLA runs convolutions inside loops ten times slower; on
    accelerators up to 40, which hides the dispatch.
    """
    if backend == 'cpu':
        return 1
    return max(size for size in range(1, 41) if steps % size == 0)


def check_numbers(config: Config) -> None:
    """Refuses counts below one and seeds that a key cannot hold."""
    if not 0 <= config.seed < 2**32:
        raise UserError(f'--seed {config.seed} must be in 0 … 4294967295')
    for name in (
        'batch_size',
        'checkpoint_every',
        'epochs',
        'limit_test',
        'limit_train',
        'width',
    ):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f'--{name.replace("_", "-")} {value} must be at least 1')


def check_batch(config: Config, count: int, devices: int) -> None:
    """Refuses a batch that the data or the devices cannot make."""
    if config.batch_size > count:
        raise UserError(
            f'--batch-size {config.batch_size} is larger than the {count} training '
            'images: choose a smaller one'
        )
    if config.batch_size % devices:
        raise UserError(
            f'--batch-size {config.batch_size} does not divide among {devices} '
            f'devices: choose a multiple of {devices}'
        )


def limited(data: Dataset, config: Config) -> Dataset:
    """The first images of each split, as many as `config` says."""
    splits = {}
    for name in ('train', 'test'):
        split, limit = getattr(data, name), getattr(config, f'limit_{name}')
        if limit is not None and limit > len(split.labels):
            raise UserError(
                f'--limit-{name} {limit} is more than the {len(split.labels)} images '
                'that there are'
            )
        splits[name] = Split(split.images[:limit], split.labels[:limit])
    return data._replace(**splits)


def checksum(data: Dataset) -> str:
    """Tells data sets apart, so that a run goes on with its own."""
    crc = 0
    for split in (data.train, data.test):
        for array in split:
            crc = zlib.crc32(np.ascontiguousarray(array), crc)
    return f'{crc:08x}'


def default_out_dir(config: Config) -> Path:
    """A folder for each configuration's main settings."""
    return Path('runs') / (
        f'{config.dataset}-{config.model}-{config.optimizer}'
        f'-batch{config.batch_size}-seed{config.seed}'
    )


def facts(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What was used, for whoever reads the results later."""
    packages = ('diffgrad-optax', 'flax', 'jax', 'jaxlib', 'optax')
    return {
        'devices': [device.device_kind for device in mesh.devices.flat],
        'versions': {
            'python': platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def found(
    config: Config,
    data: Dataset,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    epochs_done: int,
) -> Iterator[str]:
    """What a run starts with, a line each."""
    params = slow_weights(state.params)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield f'device     {mesh.size} × {mesh.devices.flat[0].device_kind}'
    yield (
        f'data       {config.dataset} from {data.source}: {len(data.train.labels):,} '
        f'training and {len(data.test.labels):,} test images, {data.classes} classes'
    )
    yield f'model      {config.model}, {parameters:,} parameters, {config.precision}'
    yield f'optimizer  {config.optimizer}, batch {config.batch_size}'
    if epochs_done:
        yield f'continues  after epoch {epochs_done} of {config.epochs}'


def epoch_line(metrics: dict[str, Any]) -> str:
    """An epoch in a line."""
    return (
        'epoch {epoch:3d}  loss {train_loss:.4f}  accuracy {train_accuracy:7.2%}  '
        'test {test_accuracy:7.2%}  {images_per_second:6.0f} images/s  {seconds:.1f} s'
    ).format(**metrics)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    train(cli.parse(Config, argv, description=__doc__))


if __name__ == '__main__':
    cli.run(main)
