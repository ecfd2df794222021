"""Gradients to update with, made inside the step that uses them.

`materialized` is what backpropagation leaves: an array that one kernel wrote to
memory and the update reads. `elementwise` is a function of the parameters that XLA
fuses with the update, so that no gradient is ever in memory.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

RANK = 8


def factors(tree: Any) -> Any:
    """Two thin matrices for each array of `tree`, whose product has its size.

    As in the backward pass of a dense layer over a batch of eight.
    """

    def pair(leaf: Any) -> tuple[jax.Array, jax.Array]:
        columns = leaf.shape[-1] if leaf.ndim > 1 else 1
        rows = math.prod(leaf.shape) // columns
        left = jnp.linspace(-0.01, 0.01, rows * RANK, dtype=leaf.dtype)
        right = jnp.linspace(0.5, 1.0, RANK * columns, dtype=leaf.dtype)
        return left.reshape(rows, RANK), right.reshape(RANK, columns)

    return jax.tree.map(pair, tree)


def materialized(params: Any, factors: Any) -> Any:
    """The products of `factors`, in memory before anything uses them."""

    def product(param: jax.Array, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.lax.dot(*pair).reshape(param.shape)

    # The barrier keeps a compiler from fusing the product with the update.
    return jax.lax.optimization_barrier(jax.tree.map(product, params, factors))


def elementwise(params: Any, factors: Any) -> Any:
    """A square of the parameters; `factors` are not used."""
    del factors
    return jax.tree.map(lambda leaf: leaf * leaf + 1e-3, params)


def least_moved(param_bytes: float, state_bytes: float, gradient: str) -> float:
    """Bytes for each parameter that an update has to read and write.

    Args:
      param_bytes: of one parameter, and of its gradient.
      state_bytes: of the state, for each parameter.
      gradient: whether it is in memory or fused: a name of `GRADIENTS`, or another.
    """
    moved = 2 * param_bytes + 2 * state_bytes
    return moved if gradient == 'elementwise' else moved + param_bytes


GRADIENTS = {'materialized': materialized, 'elementwise': elementwise}
