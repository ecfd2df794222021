"""A small training loop with diffGrad, and a look at its friction coefficients ξ.

    python examples/first_loop.py
    python examples/first_loop.py --friction relative_dfc --learning-rate 0.02

A network of two layers in plain JAX learns scikit-learn's handwritten digits.
diffGrad multiplies each element of Adam's step by ξ = σ(|gₜ₋₁ − gₜ|), which is at
least ½. Where ξ stays ½, diffGrad is Adam at half the learning rate.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from diffgrad_optax import diffgrad, friction_coefficients
from diffgrad_optax.friction import COEFFICIENTS

Params = dict[str, jax.Array]
BATCH, HIDDEN = 32, 64


def init(key: jax.Array) -> Params:
    """He's initialization of a network 64 – HIDDEN – 10."""
    keys = jax.random.split(key)
    return {
        'w1': jax.random.normal(keys[0], (64, HIDDEN)) * (2 / 64) ** 0.5,
        'b1': jnp.zeros(HIDDEN),
        'w2': jax.random.normal(keys[1], (HIDDEN, 10)) * (2 / HIDDEN) ** 0.5,
        'b2': jnp.zeros(10),
    }


def predict(params: Params, images: jax.Array) -> jax.Array:
    """Logits: batch × 10."""
    hidden = jax.nn.relu(images @ params['w1'] + params['b1'][None])
    return hidden @ params['w2'] + params['b2'][None]


def mean_loss(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy of a batch."""
    logits = predict(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


def train(learning_rate: float, friction: str, epochs: int, seed: int) -> Params:
    """Trains on 1,437 images; prints each epoch's loss, accuracy and last mean ξ."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    images, labels = jnp.asarray(digits.data / 16, jnp.float32), digits.target
    valid, rest = np.split(rng.permutation(len(labels)), [360])
    optimizer = diffgrad(learning_rate, friction=friction)

    @jax.jit
    def step(
        params: Params, state: optax.OptState, images: jax.Array, labels: jax.Array
    ) -> tuple[Params, optax.OptState, jax.Array, Params]:
        loss, grads = jax.value_and_grad(mean_loss)(params, images, labels)
        # Only to be printed: the update computes its own.
        xi = friction_coefficients(grads, state, friction)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, xi

    params = init(jax.random.key(seed))
    state = jax.jit(optimizer.init)(params)
    for epoch in range(1, epochs + 1):
        losses = []
        order = rng.permutation(rest)[: len(rest) // BATCH * BATCH]
        for batch in order.reshape(-1, BATCH):
            params, state, loss, xi = step(params, state, images[batch], labels[batch])
            losses.append(loss)
        correct = int(
            jnp.sum(predict(params, images[valid]).argmax(-1) == labels[valid])
        )
        means = '  '.join(f'{name} {float(c.mean()):.4f}' for name, c in xi.items())
        print(
            f'epoch {epoch:2d}  loss {np.mean(losses):.4f}  '
            f'accuracy {correct / len(valid):6.2%}  mean ξ: {means}'
        )
    return params


class Parser(argparse.ArgumentParser):
    """Refuses a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(f'error: {message}')


def number(kind: type[int] | type[float], least: float) -> Callable[[str], float]:
    """The type of a flag: a number of at least `least`."""

    def parse(text: str) -> float:
        try:
            if least <= kind(text) < 2**31:
                return kind(text)
        except ValueError:
            pass
        name = 'a whole number' if kind is int else 'a number'
        raise argparse.ArgumentTypeError(f'{text!r} must be {name} of at least {least}')

    return parse


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(allow_abbrev=False)
    parser.add_argument('--learning-rate', type=number(float, 0), default=0.01)
    parser.add_argument('--friction', choices=COEFFICIENTS, default='dfc')
    parser.add_argument('--epochs', type=number(int, 1), default=10)
    parser.add_argument('--seed', type=number(int, 0), default=0)
    return parser.parse_args(argv)


def main() -> None:
    """The command line."""
    train(**vars(parse()))


if __name__ == '__main__':
    main()
