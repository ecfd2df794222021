"""Trains an image classifier on CIFAR, MNIST or digits, with any optimizer there is.

python -m experiments.cifar.train --dataset cifar10 --optimizer diffgrad
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.cifar import data as datasets
from experiments.cifar.config import Config, check_numbers, default_out_dir
from experiments.cifar.device_data import data_parallel_mesh, put_data
from experiments.cifar.epochs import Trainer
from experiments.cifar.files import Dataset, Split
from experiments.cifar.training import Task, TrainState, init_state
from experiments.lab import cli
from experiments.lab.cli import UserError
from experiments.lab.curves import draw_curves
from experiments.lab.divergence import NonFiniteError, refusal
from experiments.lab.environment import facts
from experiments.lab.optimizers import compose, make_optimizer, slow_weights
from experiments.lab.processes import (
    by_all,
    by_leader,
    check_alike,
    connect,
    leads,
    silent,
)
from experiments.lab.run_directory import RunDirectory
from experiments.lab.schedules import Length, Plateau


@dataclass(frozen=True)
class Result:
    """What a finished run comes to."""

    correct: int
    count: int
    trained: int  # epochs in this call; the others were done before
    metrics: list[dict[str, Any]]  # of every epoch
    out_dir: Path


class Prepared(NamedTuple):
    """A run before its first step."""

    data: Dataset
    checksum: str  # of the data
    mesh: jax.sharding.Mesh
    steps: int  # in an epoch
    task: Task
    state: TrainState


def train(
    config: Config,
    say: Callable[[str], None] = print,
    read: Callable[[Any], tuple[Any, dict[str, Any]]] = lambda state: (state, {}),
) -> Result:
    """Trains as `config` says, or goes on with what is in its folder.

    Args:
      config: everything that the run is told.
      say: what to do with each line of the report, on the first of several processes.
      read: of the optimizer's state after an epoch: the state to go on with, and what
        it adds to the epoch's metrics.

    Raises:
      UserError: if something about `config` or the files is wrong, or the loss is no
        number any more.
    """
    if not leads():
        say = silent
    data, crc, mesh, steps, task, initial = prepare(config)
    out_dir = default_out_dir(config) if config.out_dir is None else config.out_dir
    settings = config.settings() | {'data_checksum': crc}
    with RunDirectory(
        out_dir,
        settings=settings,
        facts=facts(mesh),
        keys=(
            *('train_loss', 'test_accuracy', 'test_correct', 'test_count'),
            *('images_per_second', 'seconds'),
        ),
        resume=config.resume,
    ) as run:
        state, metrics = run.restore(initial)
        plateau = None
        if config.schedule == 'plateau':
            plateau = Plateau(
                optax.tree.get(initial.opt_state, 'learning_rate'),
                (line['train_loss'] for line in metrics),
            )
        epochs_done = len(metrics)
        for words in heading(config, data, state, mesh, epochs_done):
            say(words)
        chunk = steps_per_call(steps, jax.default_backend())
        trainer = Trainer(config, task, put_data(data, mesh), mesh, chunk)
        if epochs_done < config.epochs:
            say(f'compiled   in {trainer.compile(state):.1f} s')
        try:
            for epoch in range(epochs_done + 1, config.epochs + 1):
                state, line = trainer.epoch(state, epoch)
                opt_state, seen = read(state.opt_state)
                state = state._replace(opt_state=opt_state)
                line |= seen
                metrics.append(line)
                if plateau is not None:
                    state = with_rate(state, plateau.after(line['train_loss']))
                say(epoch_line(line))
                run.log(line)
                if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
                    run.save(state, epoch)
        except NonFiniteError as error:
            raise refusal(error, run.last_good(), config.non_finite) from error
        finally:
            if metrics and leads():
                draw(out_dir / 'curves.png', config, metrics)
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


def prepare(config: Config) -> Prepared:
    """Makes everything but files.

    Raises:
      UserError: if something about `config` is wrong, or processes differ in it.
    """
    check_alike(vars(config) | {'data_dir': None})
    check_numbers(config)
    composition = compose(
        config.optimizer, weight_decay=config.weight_decay, friction=config.friction
    )
    data = by_all(lambda: limited(loaded(config), config))
    crc = checksum(data)
    check_alike({'data_checksum': crc})
    mesh = data_parallel_mesh()
    check_batch(config, len(data.train.labels), mesh.size)
    steps = len(data.train.labels) // config.batch_size
    optimizer = make_optimizer(
        composition,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        length=Length(config.epochs, steps),
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
    task = task._replace(skip_non_finite=config.non_finite == 'skip')
    return Prepared(data, crc, mesh, steps, task, state)


def loaded(config: Config) -> Dataset:
    """The data set, which process 0 fetches before the others look for it."""
    first: list[Dataset] = []
    by_leader(lambda: first.append(datasets.load(config.dataset, config.data_dir)))
    return first[0] if first else datasets.load(config.dataset, config.data_dir)


def draw(path: Path, config: Config, metrics: list[dict[str, Any]]) -> None:
    """Draws the run so far; a run does not fail because it cannot."""
    name = f'{config.model} on {config.dataset}'
    try:
        draw_curves(path, {shortened(config.optimizer): [metrics]}, name)
    except OSError as error:
        print(f'warning: {path} is not drawn: {error.strerror}', file=sys.stderr)


def shortened(optimizer: str) -> str:
    """A name that fits into a picture."""
    return optimizer if len(optimizer) <= 40 else f'{optimizer[:39]}…'


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

    def first(name: str, split: Split, limit: int | None) -> Split:
        if limit is not None and limit > len(split.labels):
            raise UserError(
                f'--limit-{name} {limit} is more than the {len(split.labels)} images '
                'that there are'
            )
        return Split(split.images[:limit], split.labels[:limit])

    return data._replace(
        train=first('train', data.train, config.limit_train),
        test=first('test', data.test, config.limit_test),
    )


def data_checksum(config: Config) -> str:
    """That of the images which a run would learn from.

    Raises:
      UserError: if they are not there.
    """
    return checksum(limited(loaded(config), config))


def checksum(data: Dataset) -> str:
    """Tells data sets apart, so that a run goes on with its own."""
    crc = 0
    for split in (data.train, data.test):
        for array in split:
            crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return f'{crc:08x}'


def heading(
    config: Config,
    data: Dataset,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    epochs_done: int,
) -> Iterator[str]:
    """What a run starts with, a line each."""
    params = slow_weights(state.params)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    processes = f' of {count} processes' if (count := jax.process_count()) > 1 else ''
    yield f'device     {mesh.size} × {mesh.devices.flat[0].device_kind}{processes}'
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
    line = (
        'epoch {epoch:3d}  loss {train_loss:.4f}  accuracy {train_accuracy:7.2%}  '
        'test {test_accuracy:7.2%}  {images_per_second:6.0f} images/s  {seconds:.1f} s'
    ).format(**metrics)
    skipped = metrics.get('skipped_steps')
    return f'{line}  {skipped} steps not finite, skipped' if skipped else line


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    config = cli.parse(Config, argv, description=__doc__)
    connect()
    train(config)


if __name__ == '__main__':
    cli.run(main)
