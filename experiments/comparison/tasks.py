"""Tasks: data, initial parameters, and the loss of each example, as pure functions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.comparison import convex, data, networks
from experiments.comparison.data import Data, Folders
from experiments.comparison.networks import Params

Examples = tuple[jax.Array, ...]
# Loss and accuracy (NaN if there is none) of each example.
Losses = Callable[[Params, Examples], tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Task:
    """What is learned.

    Args:
      load: the data, as NumPy arrays.
      init: the parameters.
      losses: of the examples.
      augment: changes a training batch at random.
      gap: the objective's distance from its minimum, in float64, if that is known: the
        loss of a run is its logarithm to base 10 then.
    """

    load: Callable[[Folders], Data]
    init: Callable[[jax.Array], Params]
    losses: Losses
    augment: Callable[[Examples, jax.Array], Examples] = lambda examples, key: examples
    gap: Callable[[Any], float] | None = None


def classified(
    network: Callable[[Params, jax.Array], jax.Array],
    prepare: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Losses:
    """Cross-entropy and accuracy of a network's logits."""

    def losses(params: Params, examples: Examples) -> tuple[jax.Array, jax.Array]:
        x, labels = examples
        logits = network(params, prepare(x))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, (jnp.argmax(logits, -1) == labels).astype(jnp.float32)

    return losses


def predicted(network: Callable[[Params, jax.Array], jax.Array]) -> Losses:
    """Cross-entropy and accuracy of the next character, a mean over each window."""

    def losses(params: Params, examples: Examples) -> tuple[jax.Array, jax.Array]:
        tokens = examples[0].astype(jnp.int32)
        logits, targets = network(params, tokens[:, :-1]), tokens[:, 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        correct = jnp.argmax(logits, -1) == targets
        return jnp.mean(losses, -1), jnp.mean(correct.astype(jnp.float32), -1)

    return losses


def reconstructed(params: Params, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """The squared error summed over pixels from 0 to 16."""
    pixels = examples[0]
    error = pixels - 16 * networks.mlp(params, pixels / 16)
    return jnp.sum(jnp.square(error), -1), jnp.full(len(pixels), jnp.nan)


def roll(examples: Examples, key: jax.Array) -> Examples:
    """Each signal turned by a random number of places."""
    x, labels = examples
    shifts = jax.random.randint(key, (len(x),), 0, x.shape[1])
    return jax.vmap(jnp.roll)(x, shifts), labels


def crop_and_flip(examples: Examples, key: jax.Array) -> Examples:
    """Each image moved by up to four pixels, and half of them mirrored."""
    images, labels = examples
    crop_key, flip_key = jax.random.split(key)
    starts = jax.random.randint(crop_key, (len(images), 2), 0, 9)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    moved = jax.vmap(
        lambda image, start: jax.lax.dynamic_slice(image, (*start, 0), (32, 32, 3))
    )(padded, starts)
    flips = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(flips, moved[:, :, ::-1], moved), labels


def of_objective(objective: convex.Objective) -> Task:
    """A convex objective of all data, from random parameters."""
    return Task(
        load=lambda folders: dict.fromkeys(('train', 'valid', 'test'), objective.table),
        init=lambda key: jax.random.normal(key, (objective.table[0].shape[1],)),
        losses=objective.losses,
        gap=objective.gap,
    )


MNIST1D = Task(
    load=data.signals,
    init=lambda key: networks.signal_cnn_init(key, (32, 64, 64), 40, 10),
    losses=classified(networks.signal_cnn),
    augment=roll,
)
AUTOENCODER = Task(
    load=data.digits,
    init=functools.partial(
        networks.mlp_init,
        sizes=(64, 128, 64, 32, 10, 32, 64, 128, 64),
        init=jax.nn.initializers.glorot_normal(),
    ),
    losses=reconstructed,
)
LOGISTIC = of_objective(convex.logistic())
LEAST_SQUARES = of_objective(convex.least_squares())
CHARACTERS = Task(
    load=functools.partial(data.text, length=128),
    init=functools.partial(
        networks.transformer_init, vocabulary=data.VOCABULARY, layers=2, width=128
    ),
    losses=predicted(functools.partial(networks.transformer, heads=4)),
)
CHARACTERS_LSTM = Task(
    load=functools.partial(data.text, length=64),
    init=functools.partial(
        networks.lstm_init, vocabulary=data.VOCABULARY, width=64, units=256
    ),
    losses=predicted(networks.lstm),
)
CIFAR10 = Task(
    load=data.images,
    init=functools.partial(networks.resnet_init, widths=(16, 32, 64), classes=10),
    losses=classified(networks.resnet, prepare=lambda x: x / 128.0 - 1.0),
    augment=crop_and_flip,
)
