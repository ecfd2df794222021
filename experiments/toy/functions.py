"""Three functions of one parameter, from the diffGrad paper's Section V.

The first two have a local minimum before the global one, on the way from -1; the third
has its global minimum between walls. Derivatives are true ones, by JAX; the paper's own
of F2 had x cos 8x where the chain rule gives 8x cos 8x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Function(NamedTuple):
    """A function and where to look at it."""

    value: Callable[[Any], jax.Array]
    low: float
    high: float
    minima: tuple[float, ...]  # the global one first


START = -1.0


def f1(x: jax.Array) -> jax.Array:
    """Two parabolas that meet at 0."""
    return jnp.where(x <= 0, (x + 0.3) ** 2, (x - 0.2) ** 2 + 0.05)


def f2(x: jax.Array) -> jax.Array:
    """A line, then a wavy cubic."""
    wave = x**3 + x * jnp.sin(8 * x) + 0.85
    return jnp.where(x <= -0.9, -40 * x - 35.15, wave)


def f3(x: jax.Array) -> jax.Array:
    """A wedge between two hills, on a parabola."""
    return jnp.select(
        [x <= -0.5, x <= -0.4, x <= 0, x <= 0.4, x <= 0.5],
        [x**2, 0.75 + x, -7 * x / 8, 7 * x / 8, 0.75 - x],
        x**2,
    )


FUNCTIONS = {
    'F1': Function(f1, -1.1, 0.6, (-0.3, 0.2)),
    'F2': Function(f2, -1.1, 0.6, (-0.643, 0.0, 0.588)),
    'F3': Function(f3, -1.1, 1.1, (0.0,)),
}
