"""Whether numbers are numbers."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp


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
