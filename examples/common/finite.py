"""Whether numbers are finite, and what is raised where a loss is not."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp


class NonFiniteError(Exception):
    """A loss that is infinite or NaN: says at which step."""


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no leaf of `tree` holds an infinity or a NaN; keys are not looked at."""
    return functools.reduce(
        operator.and_,
        (
            jnp.all(jnp.isfinite(leaf))
            for leaf in jax.tree.leaves(tree)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ),
        jnp.bool_(True),
    )
