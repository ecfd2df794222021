"""The training step and the evaluation: pure, compiled, on all devices.

The data set lies on the devices as uint8 from the start; a step is told only which
images to take, and crops, mirrors and normalises them itself. Everything random
derives from the run's key and the number of the step, never from where a run was
interrupted, so that a continued run is the same run.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.cifar.device_data import DeviceData, augment, normalise
from experiments.cifar.files import Dataset
from experiments.cifar.model import ACTIVATIONS, MODELS
from experiments.lab.divergence import all_finite
from experiments.lab.optimizers import fast_weights, slow_weights
from experiments.lab.processes import alone_on_cpu


class TrainState(NamedTuple):
    """All that training changes."""

    params: Any  # float32; `optax.LookaheadParams` of them with Lookahead
    batch_stats: Any  # float32
    opt_state: optax.OptState
    step: jax.Array  # updates so far: int32, scalar


class Metrics(NamedTuple):
    """Sums over images."""

    loss: jax.Array  # float32
    correct: jax.Array  # int32
    # int32: how many images. In training a step whose loss is not finite counts none;
    # unless such steps are skipped, neither does any after it, so that it can be named
    count: jax.Array  # type: ignore[assignment]  # it hides tuple.count


class Network(NamedTuple):
    """What the gradient is compiled for; equal for runs that share a compilation."""

    graphdef: Any  # the model without its arrays
    flip: bool
    padding: int


class Task(NamedTuple):
    """What is fixed for a whole run."""

    network: Network
    optimizer: optax.GradientTransformation
    skip_non_finite: bool = False  # steps whose loss, gradient or statistics are not


class Gradient(NamedTuple):
    """What one batch says."""

    grads: Any  # of the mean loss, shaped like the parameters
    batch_stats: Any  # the new running statistics
    metrics: Metrics  # before the step


def init_state(
    model: str,
    *,
    data: Dataset,
    width: int,
    activation: str,
    dtype: Any,
    optimizer: optax.GradientTransformation,
    lookahead: bool = False,
    seed: int,
    mesh: Mesh,
) -> tuple[Task, TrainState]:
    """Makes the model and its first state, on every device of `mesh`.

    `lookahead` says whether `optimizer` moves fast and slow weights.
    """
    # For every new shape XLA compiles the default generator for a second on a CPU,
    # this one for a third of that.
    key = jax.random.key(seed, impl='rbg')
    network = MODELS[model](
        image_shape=data.train.images.shape[1:],
        classes=data.classes,
        width=width,
        activation=ACTIVATIONS[activation],
        dtype=dtype,
        rngs=nnx.Rngs(key),
    )
    graphdef, *states = nnx.split(network, nnx.Param, nnx.BatchStat)
    params, batch_stats = map(nnx.as_pure, states)
    if lookahead:
        # Two copies, because the state is donated.
        params = optax.LookaheadParams(params, jax.tree.map(jnp.copy, params))
    state = TrainState(
        params, batch_stats, optimizer.init(params), jnp.zeros((), jnp.int32)
    )
    state = replicated(state, mesh)
    return Task(Network(graphdef, data.flip, data.padding), optimizer), state


def replicated(state: Any, mesh: Mesh) -> Any:
    """Copies what every process has to every device."""
    everywhere = NamedSharding(mesh, P())
    if mesh.is_multi_process:
        # device_put would, but for keys.
        return jax.jit(lambda state: state, out_shardings=everywhere)(state)
    return jax.device_put(state, everywhere)


def train_steps(
    state: TrainState,
    data: DeviceData,
    order: jax.Array,
    key: jax.Array,
    *,
    task: Task,
) -> tuple[TrainState, Metrics]:
    """Takes one step for each row of `order`, all in one call of the device.

    A single step is two calls. XLA's CPU backend runs the convolutions of a scan
    ten times slower, be it unrolled or of one step, and takes long to compile the
    gradient, which is the same for every optimizer.

    Args:
      state: donated.
      data: the data set.
      order: the images of each step: steps × batch, int32.
      key: of the run.
      task: what is fixed.

    Returns:
      The new state, and the metrics summed over all images of all steps, measured
      before each step.
    """
    if len(order) > 1:
        return scan_steps(state, data, order, key, task=task)
    return train_step(state, data, order[0], key, task=task)


def train_step(
    state: TrainState,
    data: DeviceData,
    indices: jax.Array,
    key: jax.Array,
    *,
    task: Task,
) -> tuple[TrainState, Metrics]:
    """One step on the images `indices`; otherwise as `train_steps`."""
    gradient = batch_gradient(
        fast_weights(state.params),
        state.batch_stats,
        data,
        indices,
        jax.random.fold_in(key, state.step),
        network=task.network,
    )
    if task.skip_non_finite:
        return apply_if_finite(state, gradient, optimizer=task.optimizer)
    state = apply_gradient(
        state, gradient.grads, gradient.batch_stats, optimizer=task.optimizer
    )
    return state, gradient.metrics


@functools.partial(jax.jit, static_argnames=('task',), donate_argnames=('state',))
def scan_steps(
    state: TrainState,
    data: DeviceData,
    order: jax.Array,
    key: jax.Array,
    *,
    task: Task,
) -> tuple[TrainState, Metrics]:
    """The steps of `train_steps` as one program."""

    def step(state: TrainState, indices: jax.Array) -> tuple[TrainState, Metrics]:
        return train_step(state, data, indices, key, task=task)

    state, metrics = jax.lax.scan(step, state, order)
    if not task.skip_non_finite:
        # The first loss that is not finite ends the run, and its place is wanted.
        before = jnp.cumprod(metrics.count > 0, dtype=jnp.int32)
        metrics = metrics._replace(count=before * metrics.count)
    return state, jax.tree.map(jnp.sum, metrics)


@functools.partial(jax.jit, static_argnames=('network',))
def batch_gradient(
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    indices: jax.Array,
    key: jax.Array,
    *,
    network: Network,
) -> Gradient:
    """The gradient of the mean loss over some training images.

    Args:
      params: the parameters.
      batch_stats: the running statistics.
      data: the data set.
      indices: which images, int32.
      key: of the step, for the augmentation.
      network: what is fixed.
    """
    images = data.train_images[indices]
    images = augment(images, key, flip=network.flip, padding=network.padding)
    labels = data.train_labels[indices]

    def mean_loss(params: Any) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        model = nnx.merge(network.graphdef, params, batch_stats, copy=True)
        model.train()
        logits = model(normalise(images, data))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), (nnx.as_pure(nnx.state(model, nnx.BatchStat)), logits)

    grad = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (batch_stats, logits)), grads = grad(params)
    count = jnp.where(jnp.isfinite(loss), len(labels), 0)
    metrics = Metrics(loss * len(labels), count_correct(logits, labels), count)
    return Gradient(grads, batch_stats, metrics)


@functools.partial(jax.jit, static_argnames=('optimizer',), donate_argnames=('state',))
def apply_gradient(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    *,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state after one update of the optimizer; `state` is donated."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, batch_stats, opt_state, state.step + 1)


@functools.partial(jax.jit, static_argnames=('optimizer',), donate_argnames=('state',))
def apply_if_finite(
    state: TrainState, gradient: Gradient, *, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """As `apply_gradient`; of a gradient that is not finite only the step is counted.

    `optax.apply_if_finite` would let the running statistics through, takes no Lookahead
    and is a state of its own, with which no run could be continued that began without.
    """
    finite = all_finite(gradient)

    def chosen(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.where(finite, *leaves), new, old)

    applied = apply_gradient(
        state, gradient.grads, gradient.batch_stats, optimizer=optimizer
    )
    nothing = jax.tree.map(jnp.zeros_like, gradient.metrics)
    return (
        chosen(applied, state)._replace(step=applied.step),
        chosen(gradient.metrics, nothing),
    )


@functools.partial(jax.jit, static_argnames=('network',))
def evaluate_batch(
    params: Any,
    batch_stats: Any,
    data: DeviceData,
    indices: jax.Array,
    *,
    network: Network,
) -> Metrics:
    """Metrics of some test images, by the running statistics.

    Args:
      params: the parameters.
      batch_stats: the running statistics.
      data: the data set.
      indices: which images, int32; -1 fills up a batch and counts for nothing.
      network: what is fixed.
    """
    model = nnx.merge(network.graphdef, params, batch_stats, copy=True)
    model.eval()
    logits = model(normalise(data.test_images[indices], data))
    labels = jnp.where(indices >= 0, data.test_labels[indices], -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.abs(labels))
    return Metrics(
        jnp.sum(jnp.where(indices >= 0, losses, 0.0)),
        count_correct(logits, labels),
        jnp.sum(indices >= 0, dtype=jnp.int32),
    )


def evaluate(
    state: TrainState, data: DeviceData, *, task: Task, batch_size: int, mesh: Mesh
) -> Metrics:
    """Metrics of all test images; on accelerators it waits for nothing."""
    count = len(data.test_labels)
    indices = np.full(-(-count // batch_size) * batch_size, -1, np.int32)
    indices[:count] = np.arange(count)
    batches = [
        alone_on_cpu(
            evaluate_batch(
                slow_weights(state.params),
                state.batch_stats,
                data,
                jax.device_put(batch, NamedSharding(mesh, P('data'))),
                network=task.network,
            )
        )
        for batch in indices.reshape(-1, batch_size)
    ]
    return jax.tree.map(lambda *sums: sum(sums), *batches)


def count_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(jnp.argmax(logits, axis=-1) == labels, dtype=jnp.int32)
