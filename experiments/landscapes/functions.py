"""Five functions of two parameters, each with 0 as its lowest value.

Four are the usual ones of the literature on optimisation, in their usual boxes. The
fifth stands for training on minibatches: a quadratic whose minimum jumps about at every
step, so that gradients are noisy and right on average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Function(NamedTuple):
    """A function and where to look at it."""

    title: str
    value: Callable[[Any], jax.Array]  # [..., 2] → [...]
    low: tuple[float, float]
    high: tuple[float, float]
    minima: tuple[tuple[float, float], ...]  # all global
    noise: float = 0.0  # standard deviation of what a gradient takes for the minimum

    def grad(self, point: jax.Array, normal: jax.Array) -> jax.Array:
        """What an optimizer sees at `point`, given standard normal numbers."""
        return jax.grad(self.value)(point - self.noise * normal)


def rosenbrock(point: jax.Array) -> jax.Array:
    """A flat and bent valley."""
    x, y = point[..., 0], point[..., 1]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rastrigin(point: jax.Array) -> jax.Array:
    """A bowl with a local minimum near every pair of whole numbers."""
    return jnp.sum(10 + point**2 - 10 * jnp.cos(2 * jnp.pi * point), axis=-1)


def beale(point: jax.Array) -> jax.Array:
    """A plain between cliffs: slopes of 1e5 in the corners, of 1e-1 in the middle."""
    x, y = point[..., 0], point[..., 1]
    return (
        (1.5 - x + x * y) ** 2
        + (2.25 - x + x * y**2) ** 2
        + (2.625 - x + x * y**3) ** 2
    )


def himmelblau(point: jax.Array) -> jax.Array:
    """Four minima, all as low."""
    x, y = point[..., 0], point[..., 1]
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def quadratic(point: jax.Array) -> jax.Array:
    """Curvatures of 1 and 20."""
    return 0.5 * point[..., 0] ** 2 + 10.0 * point[..., 1] ** 2


FUNCTIONS = {
    'rosenbrock': Function('Rosenbrock', rosenbrock, (-2, -1), (2, 3), ((1, 1),)),
    'rastrigin': Function(
        'Rastrigin', rastrigin, (-5.12, -5.12), (5.12, 5.12), ((0, 0),)
    ),
    'beale': Function('Beale', beale, (-4.5, -4.5), (4.5, 4.5), ((3, 0.5),)),
    'himmelblau': Function(
        'Himmelblau',
        himmelblau,
        (-5, -5),
        (5, 5),
        (
            (3, 2),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
    ),
    'quadratic': Function(
        'Noisy quadratic', quadratic, (-4, -4), (4, 4), ((0, 0),), noise=0.5
    ),
}
