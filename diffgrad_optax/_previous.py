"""Keeping the previous gradient: its storage, its first value, its successor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def init_previous(params: Any, dtype: np.dtype[Any] | None) -> Any:
    """Zeros shaped like `params`: the gradient before the first step.

    Args:
      params: a tree of arrays, shape-dtype structs or placeholders.
      dtype: what to store, from `storage_dtype`; None keeps each leaf's own.

    Raises:
      TypeError: if a complex leaf would be stored in a real dtype.
    """

    def zeros(path: Any, param: Any) -> jax.Array:
        if (
            dtype is not None
            and jnp.iscomplexobj(param)
            and not jnp.issubdtype(dtype, jnp.complexfloating)
        ):
            raise TypeError(
                f'prev_grad_dtype={dtype.name} cannot hold the complex parameter '
                f'{jax.tree_util.keystr(path)} ({param.dtype.name}): '
                'use None or a complex dtype'
            )
        return jnp.zeros_like(param, dtype=dtype)

    return jax.tree_util.tree_map_with_path(zeros, params)


def next_previous(grads: Any, prev_grads: Any) -> Any:
    """`grads` as the next step's previous gradient, in the dtypes of `prev_grads`.

    A copy even where the dtype stays: outside jit the caller's own arrays would
    otherwise become the state, and be deleted when the state is donated.
    """
    return jax.tree.map(
        lambda g, q: jnp.array(g, dtype=q.dtype, copy=True), grads, prev_grads
    )


def check_same_leaves(grads: Any, prev_grads: Any) -> None:
    """Refuses gradients that do not fit the state, naming the leaf that differs.

    Raises:
      ValueError: if a leaf is missing on one side or has another shape.
    """
    advice = 'call init with the parameters that these gradients belong to'
    grads_at = dict(jax.tree_util.tree_leaves_with_path(grads))
    prev_grads_at = dict(jax.tree_util.tree_leaves_with_path(prev_grads))
    for path in grads_at | prev_grads_at:
        leaf = jax.tree_util.keystr(path)
        if path not in prev_grads_at:
            raise ValueError(
                f'the optimizer state has no leaf for gradient {leaf}: {advice}'
            )
        if path not in grads_at:
            raise ValueError(
                f'the optimizer state has a leaf {leaf}, but no gradient came: {advice}'
            )
        shape, expected = jnp.shape(grads_at[path]), prev_grads_at[path].shape
        if shape != expected:
            raise ValueError(
                f'gradient {leaf} has shape {shape}, but its leaf of the optimizer '
                f'state has {expected}: {advice}'
            )
    treedef: Any = jax.tree.structure(grads)
    expected_treedef: Any = jax.tree.structure(prev_grads)
    if treedef != expected_treedef:
        raise ValueError(
            f'gradients are {treedef}, but the optimizer state holds '
            f'{expected_treedef}: {advice}'
        )
