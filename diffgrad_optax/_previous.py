"""Keeping the previous gradient: its storage, its first value, its successor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffgrad_optax._checks import check_can_hold


def init_previous(params: Any, dtype: np.dtype[Any] | None) -> Any:
    """Zeros shaped like `params`: the gradient before the first step.

    Args:
      params: a tree of arrays, shape-dtype structs or placeholders.
      dtype: what to store, from `storage_dtype`; None keeps each leaf's own.

    Raises:
      TypeError: if a complex leaf would be stored in a real dtype.
    """
    check_can_hold('prev_grad_dtype', dtype, params)
    return jax.tree.map(lambda param: jnp.zeros_like(param, dtype=dtype), params)


def next_previous(grads: Any, prev_grads: Any) -> Any:
    """`grads` as the next step's previous gradient, in the dtypes of `prev_grads`.

    A copy even where the dtype stays: outside jit the caller's own arrays would
    otherwise become the state, and be deleted when the state is donated.
    """
    return jax.tree.map(
        lambda g, q: jnp.array(g, dtype=q.dtype, copy=True), grads, prev_grads
    )
