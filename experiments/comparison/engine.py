"""Trains runs of one optimizer: all at once by `vmap`, or one after another."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffgrad_optax import friction_coefficients
from experiments.comparison.data import Data
from experiments.comparison.design import Optimizer, Workload

EVALUATED = 250  # examples at a time
SHOWN = 500  # examples that a learning curve is computed on


class State(NamedTuple):
    """What a run carries from step to step."""

    params: Any
    opt_state: Any
    key: jax.Array  # of the augmentation


def schedule(optimizer: Optimizer, steps: int) -> Callable[[Any], jax.Array]:
    """From 0 to 1 and back to 0: 5 % of linear warm-up, then a cosine."""
    if optimizer.constant:
        return lambda step: jnp.ones((), jnp.float32)
    warm_up = max(1, steps // 20)
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warm_up, steps)


def make(
    optimizer: Optimizer, workload: Workload, rate: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """The optimizer at a learning rate that may be traced.

    Weight decay is decoupled from the learning rate too, so that it is the same for
    all: step t shrinks matrices by the factor 1 - decay · schedule(t).
    """
    shape = schedule(optimizer, workload.steps)
    made = optimizer.make(lambda step: rate * shape(step))
    if workload.decay:
        matrices = functools.partial(jax.tree.map, lambda p: p.ndim >= 2)
        decay = optax.add_decayed_weights(
            lambda step: -workload.decay * shape(step), mask=matrices
        )
        made = optax.chain(made, decay)
    return optax.with_extra_args_support(made)


class Program:
    """The functions that train runs of one optimizer on one workload.

    Args:
      workload: what is learned.
      optimizer: by what.
      data: of the workload.
    """

    def __init__(self, workload: Workload, optimizer: Optimizer, data: Data) -> None:
        self.workload, self.optimizer = workload, optimizer
        self.data = jax.tree.map(jnp.asarray, data)
        self.start = jax.jit(jax.vmap(self._start))
        self.segment = jax.jit(
            jax.vmap(self._segment, in_axes=(0, 0, 0, None)), donate_argnums=0
        )
        self.evaluate = jax.jit(jax.vmap(self._evaluate, in_axes=(0, None)))
        self.friction = jax.jit(jax.vmap(self._friction, in_axes=(0, 0, None)))

    def _start(self, rate: jax.Array, seed: jax.Array) -> State:
        init_key, key = jax.random.split(jax.random.key(seed))
        params = self.workload.task.init(init_key)
        opt_state = make(self.optimizer, self.workload, rate).init(params)
        return State(params, opt_state, key)

    def _loss(
        self, params: Any, indices: jax.Array, key: jax.Array, train: Any
    ) -> jax.Array:
        task, examples = self.workload.task, train
        if self.workload.batch:
            examples = jax.tree.map(lambda array: array[indices], train)
        return jnp.mean(task.losses(params, task.augment(examples, key))[0])

    def _gradient(
        self, loss: Callable[[Any], jax.Array], params: Any
    ) -> tuple[jax.Array, Any]:
        value, grads = jax.value_and_grad(loss)(params)
        if self.workload.clip:
            clip = optax.clip_by_global_norm(self.workload.clip)
            grads, _ = clip.update(grads, clip.init(params))
        return value, grads

    def _segment(
        self, state: State, rate: jax.Array, indices: jax.Array, train: Any
    ) -> tuple[State, jax.Array]:
        optimizer = make(self.optimizer, self.workload, rate)

        def step(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
            params, opt_state, key = state
            key, step_key = jax.random.split(key)
            loss = functools.partial(
                self._loss, indices=batch, key=step_key, train=train
            )
            value, grads = self._gradient(loss, params)
            updates, opt_state = optimizer.update(
                grads, opt_state, params, value=value, grad=grads, value_fn=loss
            )
            return State(optax.apply_updates(params, updates), opt_state, key), value

        state, losses = jax.lax.scan(step, state, indices)
        return state, jnp.mean(losses)

    def _evaluate(self, params: Any, split: Any) -> tuple[jax.Array, jax.Array]:
        count = len(split[0])
        size = min(EVALUATED, count)
        places = np.arange(-(-count // size) * size).reshape(-1, size)

        def part(places: jax.Array) -> Any:
            examples = jax.tree.map(lambda a: a[places % count], split)
            values = self.workload.task.losses(params, examples)
            return tuple(jnp.sum(jnp.where(places < count, v, 0.0)) for v in values)

        losses, accuracies = jax.lax.map(part, jnp.asarray(places))
        return jnp.sum(losses) / count, jnp.sum(accuracies) / count

    def score(
        self, params: Any, split: str, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of each run, on `split` or its first examples."""
        if (gap := self.workload.task.gap) is not None:
            gaps = np.array([gap(of_run) for of_run in np.asarray(params, np.float64)])
            # Below this, float32 parameters tell nothing.
            return np.log10(np.maximum(gaps, 1e-12)), np.full(len(gaps), np.nan)
        examples = tuple(array[:most] for array in self.data[split])
        loss, accuracy = self.evaluate(params, examples)
        return np.asarray(loss), np.asarray(accuracy)

    def _friction(self, state: State, batch: jax.Array, train: Any) -> jax.Array:
        loss = functools.partial(self._loss, indices=batch, key=state.key, train=train)
        _, grads = self._gradient(loss, state.params)
        coefficients = friction_coefficients(
            grads, state.opt_state, self.optimizer.friction or ''
        )
        leaves = jax.tree.leaves(coefficients)
        total = sum((jnp.sum(leaf) for leaf in leaves), jnp.zeros(()))
        return total / sum(leaf.size for leaf in leaves)


def batches(workload: Workload, count: int, seed: int) -> np.ndarray:
    """The examples of each step: points × steps × batch, every epoch in a new order."""
    points = workload.points
    if not workload.batch:
        return np.zeros((points, workload.steps // points, 0), np.int32)
    total = workload.steps * workload.batch
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(count) for _ in range(-(-total // count))]
    order = np.concatenate(epochs)[:total].astype(np.int32)
    return order.reshape(points, workload.steps // points, workload.batch)


def train(
    program: Program, runs: Sequence[tuple[float, int]], *, test: bool
) -> list[dict[str, Any]]:
    """Trains at each (learning rate, seed), all at once.

    Returns:
      The result of each run, None where a number is not finite; if `test`, with the
      test loss and the learning curve: step, mean training loss since, validation loss.
    """
    workload, data = program.workload, program.data
    rates, seeds = (jnp.asarray(column) for column in zip(*runs, strict=True))
    rates = rates.astype(jnp.float32)
    count = len(data['train'][0])
    indices = np.stack([batches(workload, count, seed) for _, seed in runs])
    state = program.start(rates, seeds)
    segment = program.segment.lower(
        state, rates, indices[:, 0], data['train']
    ).compile()
    every, seconds = workload.steps // workload.points, 0.0
    losses, valid, frictions = [], [], []
    for point in range(workload.points):
        begin = time.perf_counter()
        state, loss = jax.block_until_ready(
            segment(state, rates, indices[:, point], data['train'])
        )
        seconds += time.perf_counter() - begin
        losses.append(np.asarray(loss))
        if test:
            valid.append(program.score(state.params, 'valid', SHOWN)[0])
        if program.optimizer.friction:
            # On a batch that the last steps did not see.
            batch = indices[:, point, 0]
            frictions.append(program.friction(state, batch, data['train']))
        if not np.isfinite(loss).any():
            break
    scores = {
        split: program.score(state.params, split)
        for split in (('valid', 'test') if test else ('valid',))
    }
    per_step = seconds / len(losses) / every / len(runs)

    def result(run: int) -> dict[str, Any]:
        found: dict[str, Any] = {'train_loss': number(losses[-1][run])}
        for split, (loss, accuracy) in scores.items():
            found[f'{split}_loss'] = number(loss[run])
            found[f'{split}_accuracy'] = number(accuracy[run])
        if frictions:
            found['mean_friction'] = number(np.mean([ξ[run] for ξ in frictions]))
        found['seconds_per_step'] = number(per_step)
        if test:
            found['curve'] = [
                [every * (i + 1), number(loss[run]), number(of_valid[run])]
                for i, (loss, of_valid) in enumerate(zip(losses, valid, strict=True))
            ]
        return found

    return [result(run) for run in range(len(runs))]


def number(value: Any) -> float | None:
    """Six digits, or None where it is not finite."""
    value = float(value)
    return float(f'{value:.6g}') if math.isfinite(value) else None
