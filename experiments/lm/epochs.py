"""Epochs of the compiled steps, and how they go."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.lab.divergence import NonFiniteError, check_losses
from experiments.lab.processes import alone_on_cpu, leads
from experiments.lm import data as texts
from experiments.lm.batches import epoch_starts, steps_in
from experiments.lm.config import Config
from experiments.lm.data import Text
from experiments.lm.report import scores
from experiments.lm.sample import sample
from experiments.lm.training import (
    Task,
    TrainState,
    evaluate,
    initial_carry,
    put_everywhere,
    train_steps,
)


class Trainer:
    """Runs epochs of the compiled steps and shows how they go.

    All processes call everything, in the same order.
    """

    def __init__(self, config: Config, task: Task, text: Text) -> None:
        self.config = config
        self.task = task
        self.text = text
        self.train = put_everywhere(text.train, task.mesh)
        self.valid = put_everywhere(text.valid, task.mesh)
        self.key = jax.random.key(config.seed)
        self.steps = steps_in(len(text.train), config.batch_size, config.context)
        # Many steps in a call hide the dispatch, which on a CPU takes no time.
        self.chunk = 1 if jax.default_backend() == 'cpu' else min(32, self.steps)

    def starts(self, epoch: int) -> np.ndarray:
        """The windows of each step of an epoch."""
        return epoch_starts(
            self.config.seed,
            epoch,
            count=len(self.text.train),
            batch=self.config.batch_size,
            length=self.config.context,
            carried=self.config.model == 'lstm',
        )

    def carry(self, state: TrainState) -> Any:
        return initial_carry(self.task, state.params, self.config.batch_size)

    def compile(self, state: TrainState) -> float:
        """Makes the first calls, on a copy of `state`; returns the seconds it took."""
        begin = time.perf_counter()
        copy, carry = jax.tree.map(jnp.copy, state), self.carry(state)
        # An epoch's last call takes the steps that are left.
        for size in sorted({self.chunk, self.steps % self.chunk} - {0}):
            starts = self.starts(1)[:size]
            copy, carry, _ = train_steps(
                copy, carry, self.train, starts, self.key, task=self.task
            )
        self.loss(copy)
        return time.perf_counter() - begin

    def loss(self, state: TrainState) -> float:
        """Of the validation text."""
        return evaluate(
            state.params, self.valid, self.config.batch_size, task=self.task
        )

    def test_loss(self, state: TrainState, text: np.ndarray) -> float:
        """Of the test text, at a stretch where the network carries its state."""
        batch = 1 if self.config.model == 'lstm' else self.config.batch_size
        tokens = put_everywhere(text, self.task.mesh)
        return evaluate(state.params, tokens, batch, task=self.task)

    def epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
        """One pass over the training text and one over the others.

        Raises:
          NonFiniteError: if a loss is not finite; of a step's it may be skipped.
        """
        begin = time.perf_counter()
        carry, starts = self.carry(state), self.starts(epoch)
        losses: list[np.ndarray] = []
        with tqdm(
            total=starts.size * self.config.context,
            desc=f'epoch {epoch}/{self.config.epochs}',
            unit=' tokens',
            unit_scale=True,
            leave=False,
            disable=None if leads() else True,
        ) as bar:
            running: list[tuple[jax.Array, int]] = []
            for first in range(0, self.steps, self.chunk):
                state, carry, means = train_steps(
                    state,
                    carry,
                    self.train,
                    starts[first : first + self.chunk],
                    self.key,
                    task=self.task,
                )
                alone_on_cpu(means)
                # Waits for the call before this one, so that the devices never do.
                losses += [self.show(bar, *call) for call in running]
                running = [(means, (epoch - 1) * self.steps + first)]
            losses += [self.show(bar, *call) for call in running]
        rate = starts.size * self.config.context / (time.perf_counter() - begin)
        finite = np.concatenate(losses)
        if not len(finite):
            raise NonFiniteError(f'no step of epoch {epoch} is finite')
        line = {'epoch': epoch, 'train_loss': float(finite.mean())}
        line |= scores('valid', self.loss(state), self.config.tokens)
        if epoch == self.config.epochs and self.text.test is not None:
            line |= scores(
                'test', self.test_loss(state, self.text.test), self.config.tokens
            )
        line |= {
            'tokens_per_second': rate,
            'seconds': time.perf_counter() - begin,
        }
        if skipped := self.steps - len(finite):
            line['skipped_steps'] = skipped
        check_losses(line)
        return state, line

    def show(self, bar: Any, means: jax.Array, before: int) -> np.ndarray:
        """Waits for the losses of a call, `before` steps into the run, and shows them.

        Returns:
          Those that are finite.

        Raises:
          NonFiniteError: if one is not, unless such steps are skipped.
        """
        losses = np.asarray(means, np.float64)
        finite = np.isfinite(losses)
        if not finite.all() and not self.task.skip_non_finite:
            step = before + int(np.argmin(finite)) + 1
            raise NonFiniteError(f'the loss of step {step} is infinite or NaN')
        bar.set_postfix(loss=f'{losses[-1]:.3f}', refresh=False)
        bar.update(len(losses) * self.config.batch_size * self.config.context)
        return losses[finite]

    def write(self, state: TrainState) -> str:
        """Goes on from the beginning of the validation text."""
        tokens = sample(
            state.params,
            self.valid[: self.config.context],
            self.config.sample,
            temperature=self.config.temperature,
            seed=self.config.seed,
            task=self.task,
        )
        return texts.printable(self.text, tokens)
