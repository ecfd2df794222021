"""Trains a language model, fully sharded, with any optimizer there is.

python -m experiments.lm.train --optimizer diffgrad --sample 500
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from experiments.lab import cli
from experiments.lab.cli import UserError
from experiments.lab.divergence import NonFiniteError, refusal
from experiments.lab.environment import facts
from experiments.lab.optimizer_parts import BASES
from experiments.lab.optimizers import compose, make_optimizer
from experiments.lab.processes import by_all, check_alike, connect, leads, silent
from experiments.lab.run_directory import RunDirectory
from experiments.lab.schedules import Length
from experiments.lm import data as texts
from experiments.lm.batches import steps_in
from experiments.lm.config import Config, check
from experiments.lm.curves import draw_losses
from experiments.lm.data import Text
from experiments.lm.epochs import Trainer
from experiments.lm.report import epoch_line, heading, last_line
from experiments.lm.schedules import make_rate
from experiments.lm.sharding import make_mesh
from experiments.lm.training import Task, TrainState, first_state


@dataclass(frozen=True)
class Result:
    """What a finished run comes to."""

    trained: int  # epochs in this call; the others were done before
    metrics: list[dict[str, Any]]  # of every epoch
    written: str  # the sample; empty if none was wanted
    out_dir: Path


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
    check_alike(vars(config) | {'data_dir': None})
    check(config)
    text = by_all(lambda: loaded(config))
    crc = texts.checksum(text)
    check_alike({'data_checksum': crc})
    mesh = make_mesh(config.fsdp)
    check_batch(config, text, mesh)
    if not leads():
        say = silent
    task, make_state = prepare(config, text, mesh)
    # An optimizer that does not fit the parameters is refused before there is a folder.
    jax.eval_shape(make_state)
    # The mesh by whose axes the networks say what is split.
    with (
        jax.set_mesh(mesh),
        RunDirectory(
            config.folder(),
            settings=config.settings() | {'data_checksum': crc},
            facts=facts(mesh),
            keys=('epoch', 'train_loss', 'valid_loss', 'seconds'),
            resume=config.resume,
        ) as run,
    ):
        state, metrics = run.restore(make_state())
        done = len(metrics)
        trainer = Trainer(config, task, text)
        for words in heading(config, text, state, mesh, done):
            say(words)
        if done < config.epochs:
            say(f'compiled   in {trainer.compile(state):.1f} s')
        try:
            for epoch in range(done + 1, config.epochs + 1):
                state, line = trainer.epoch(state, epoch)
                opt_state, seen = read(state.opt_state)
                state = state._replace(opt_state=opt_state)
                line |= seen
                metrics.append(line)
                say(epoch_line(line))
                run.log(line)
                if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
                    run.save(state, epoch)
        except NonFiniteError as error:
            raise refusal(error, run.last_good(), config.non_finite) from error
        finally:
            if metrics and leads():
                title = f'{config.model} with {config.optimizer}'
                draw_losses(run.path / 'curves.png', metrics, title)
        written = trainer.write(state) if config.sample else ''
    if written:
        say(f'\n{written}\n')
    say(f'{last_line(metrics[-1])}; everything is in {run.path}')
    return Result(len(metrics) - done, metrics, written, run.path)


def loaded(config: Config) -> Text:
    """The text that a run learns, as much of it as `config` says."""
    return limited(texts.load(config.data_dir, config.tokens), config.limit_train)


def data_checksum(config: Config) -> str:
    """That of the text which a run would learn.

    Raises:
      UserError: if it is not there.
    """
    return texts.checksum(loaded(config))


def prepare(
    config: Config, text: Text, mesh: Mesh
) -> tuple[Task, Callable[[], TrainState]]:
    """What is fixed for the run, and what makes its first state."""
    composition = compose(
        config.optimizer, weight_decay=config.weight_decay, friction=config.friction
    )
    rate = config.learning_rate
    rate = BASES[composition.base].learning_rate if rate is None else rate
    # As for a plateau, the state holds the rate, and each step sets it.
    optimizer = make_optimizer(
        composition,
        learning_rate=rate,
        schedule='plateau',
        length=Length(1, 1),
        seed=config.seed,
    )
    if config.clip is not None:
        optimizer = clipped(optimizer, config.clip)
    network = config.network(len(text.vocabulary))
    make_state = functools.partial(
        first_state,
        jax.random.key(config.seed),
        make_model=network,
        optimizer=optimizer,
        lookahead=composition.lookahead,
        mesh=mesh,
    )
    steps = steps_in(len(text.train), config.batch_size, config.context)
    task = Task(
        nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(0)))),
        optimizer,
        make_rate(config.schedule, rate, Length(config.epochs, steps)),
        config.context,
        mesh,
        skip_non_finite=config.non_finite == 'skip',
    )
    return task, make_state


# One object for equal arguments, so that equal runs share a compilation.
@functools.cache
def clipped(
    optimizer: optax.GradientTransformation, norm: float
) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(norm), optimizer)


def limited(text: Text, limit: int | None) -> Text:
    """The first tokens of the training text, as many as `limit` says."""
    if limit is not None and limit > len(text.train):
        raise UserError(
            f'--limit-train {limit} is more than the {len(text.train)} tokens that '
            'there are'
        )
    return text._replace(train=text.train[:limit])


def check_batch(config: Config, text: Text, mesh: Mesh) -> None:
    """Refuses a batch that the text or the devices cannot make."""
    if not steps_in(len(text.train), config.batch_size, config.context):
        raise UserError(
            f'{text.source} has {len(text.train):,} {config.tokens} to train, too few '
            f'for --batch-size {config.batch_size} windows of --context '
            f'{config.context}: choose less of either'
        )
    if len(text.valid) <= config.context:
        raise UserError(
            f'{text.source} has {len(text.valid):,} {config.tokens} to validate, too '
            f'few for --context {config.context}: choose less'
        )
    if text.test is not None and len(text.test) < 2:
        raise UserError(
            f'{text.source} has {len(text.test)} {config.tokens} to test, which leaves '
            'none to predict: give two at least'
        )
    if config.batch_size % mesh.size:
        raise UserError(
            f'--batch-size {config.batch_size} does not divide among {mesh.size} '
            f'devices: choose a multiple of {mesh.size}'
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    config = cli.parse(Config, argv, description=__doc__)
    connect()
    train(config)


if __name__ == '__main__':
    cli.run(main)
