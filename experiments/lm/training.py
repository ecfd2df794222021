"""The training step and the evaluation: pure, compiled, fully sharded.

The text lies on every device; a step is told only where its windows start. What is
random derives from the run's key and the number of the step, and the learning rate from
that number alone, so that a continued run is the same run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.lab.divergence import all_finite
from experiments.lab.optimizers import fast_weights, slow_weights
from experiments.lm.batches import whole_text
from experiments.lm.sharding import BATCH, shardings, split_batch


class TrainState(NamedTuple):
    """All that training changes."""

    params: Any  # float32; `optax.LookaheadParams` of them with Lookahead
    opt_state: optax.OptState  # holds its learning rate
    step: jax.Array  # updates so far: int32, scalar


class Task(NamedTuple):
    """What is fixed for a whole run, and what its steps are compiled for."""

    graphdef: Any  # the model without its arrays
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    length: int  # of a window
    mesh: Mesh
    skip_non_finite: bool = False  # steps with an infinite or NaN loss or gradient


@functools.partial(
    jax.jit, static_argnames=('make_model', 'optimizer', 'lookahead', 'mesh')
)
def first_state(
    key: jax.Array,
    *,
    make_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    lookahead: bool,
    mesh: Mesh,
) -> TrainState:
    """The state that training starts with, made where it is to lie.

    Args:
      key: of the initialisation.
      make_model: from the keys of its initialisation; equal ones share a compilation.
      optimizer: whose state holds its learning rate.
      lookahead: whether it moves fast and slow weights.
      mesh: over which the state is split.
    """
    params = nnx.as_pure(nnx.state(make_model(nnx.Rngs(key)), nnx.Param))
    if lookahead:
        # Two copies, because the state is donated.
        params = optax.LookaheadParams(params, jax.tree.map(jnp.copy, params))
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    return jax.lax.with_sharding_constraint(state, shardings(state, mesh))


def initial_carry(task: Task, params: Any, batch: int) -> Any:
    """What a network carries into the first windows of a text, split like them."""
    model = nnx.merge(task.graphdef, slow_weights(params))
    spec = P() if batch % task.mesh.size else BATCH
    make = functools.partial(model.initial_carry, batch)
    return jax.jit(make, out_shardings=NamedSharding(task.mesh, spec))()


@functools.partial(
    jax.jit, static_argnames=('task',), donate_argnames=('state', 'carry')
)
def train_steps(
    state: TrainState,
    carry: Any,
    tokens: jax.Array,
    starts: jax.Array,
    key: jax.Array,
    *,
    task: Task,
) -> tuple[TrainState, Any, jax.Array]:
    """Takes one step for each row of `starts`, all in one call of the device.

    Args:
      state: donated.
      carry: what the network carries from windows to those after them; donated.
      tokens: the training text.
      starts: of the windows of each step: steps × batch, int32.
      key: of the run.
      task: what is fixed.

    Returns:
      The new state and carry, and the mean loss of each step, in nats per token,
      measured before it and with dropout; NaN if the step was skipped.
    """

    def step(
        loop: tuple[TrainState, Any], starts: jax.Array
    ) -> tuple[tuple[TrainState, Any], jax.Array]:
        state, carry = loop
        inputs, targets, _ = windows(tokens, starts, task.length)
        step_key = jax.random.fold_in(key, state.step)

        def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            output = nnx.merge(task.graphdef, params)(inputs, carry, step_key)
            mean = jnp.mean(cross_entropy(output.logits, targets))
            return mean + output.penalty, (mean, output.carry)

        grad = jax.value_and_grad(loss, has_aux=True)
        (_, (mean, new_carry)), grads = grad(fast_weights(state.params))
        opt_state = optax.tree.set(
            state.opt_state, learning_rate=jnp.float32(task.rate(state.step))
        )
        updates, opt_state = task.optimizer.update(grads, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(params, opt_state, state.step + 1), new_carry
        if task.skip_non_finite:
            # `optax.apply_if_finite` would let the carry through, takes no Lookahead
            # and is a state of its own, with which no run could be continued.
            finite = all_finite((mean, grads, new_carry))
            kept = state._replace(step=state.step + 1), carry
            new = jax.tree.map(functools.partial(jnp.where, finite), new, kept)
            # A gradient may be infinite though its loss is not: skipped, and counted.
            mean = jnp.where(finite, mean, jnp.nan)
        # Where it lay; a compiler need not leave it there.
        where = shardings(state, task.mesh)
        return (jax.lax.with_sharding_constraint(new[0], where), new[1]), mean

    (state, carry), means = jax.lax.scan(step, (state, carry), starts)
    return state, carry, means


@functools.partial(jax.jit, static_argnames=('graphdef', 'length'))
def losses_of(
    params: Any,
    carry: Any,
    tokens: jax.Array,
    starts: jax.Array,
    *,
    graphdef: Any,
    length: int,
) -> jax.Array:
    """The sum of the losses of each row of windows, without dropout.

    What lies past the end of the text counts for nothing.
    """

    def step(carry: Any, starts: jax.Array) -> tuple[Any, jax.Array]:
        inputs, targets, inside = windows(tokens, starts, length)
        output = nnx.merge(graphdef, params)(inputs, carry)
        counted = jnp.where(inside, cross_entropy(output.logits, targets), 0.0)
        return output.carry, jnp.sum(counted)

    return jax.lax.scan(step, carry, starts)[1]


def evaluate(params: Any, tokens: jax.Array, batch: int, *, task: Task) -> float:
    """The mean loss over all of a text but its first token, in nats per token.

    Args:
      params: of a state.
      tokens: the text.
      batch: in how many strings of windows it is read. A network that carries its
        state starts without in each, so 1 is the whole text at a stretch.
      task: what is fixed.
    """
    params = slow_weights(params)
    carry = initial_carry(task, params, batch)
    starts = whole_text(len(tokens), batch, task.length)
    sums = losses_of(
        params, carry, tokens, starts, graphdef=task.graphdef, length=task.length
    )
    return float(np.asarray(sums, np.float64).sum()) / (len(tokens) - 1)


def windows(
    tokens: jax.Array, starts: jax.Array, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, those after them, and whether there are any: batch × length each."""
    places = split_batch(starts)[:, None] + jnp.arange(length + 1)
    text = tokens[jnp.minimum(places, len(tokens) - 1)].astype(jnp.int32)
    return text[:, :-1], text[:, 1:], places[:, 1:] < len(tokens)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def put_everywhere(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Copies an array, which all processes have, to every device."""
    return jax.device_put(array, NamedSharding(mesh, P()))
