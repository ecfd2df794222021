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


_ADVICE = 'call init with the parameters that these gradients belong to'


def check_same_leaves(grads: Any, prev_grads: Any) -> None:
    """Refuses gradients that do not fit the state, naming the leaf that differs.

    Raises:
      ValueError: if a leaf is missing on one side, or as `check_same_array`.
    """
    grads_at = dict(jax.tree_util.tree_leaves_with_path(grads))
    prev_grads_at = dict(jax.tree_util.tree_leaves_with_path(prev_grads))
    for path, grad in grads_at.items():
        if path not in prev_grads_at:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f'the optimizer state has no leaf for gradient {leaf}: {_ADVICE}'
            )
        check_same_array(path, grad, prev_grads_at[path])
    for path in prev_grads_at:
        if path not in grads_at:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f'no gradient came for leaf {leaf} of the optimizer state: {_ADVICE}'
            )
    treedef: Any = jax.tree.structure(grads)
    expected: Any = jax.tree.structure(prev_grads)
    if treedef != expected:
        raise ValueError(
            f'gradients are {treedef}, but the optimizer state holds {expected}: '
            f'{_ADVICE}'
        )


def check_same_array(path: Any, grad: Any, prev_grad: jax.Array) -> None:
    """Refuses one gradient that does not fit its leaf of the state.

    Raises:
      ValueError: if it has another shape, is neither floating nor complex, or is
        complex where the state is real.
    """
    leaf = jax.tree_util.keystr(path)
    if jnp.shape(grad) != prev_grad.shape:
        raise ValueError(
            f'gradient {leaf} has shape {jnp.shape(grad)}, but its leaf of the '
            f'optimizer state has {prev_grad.shape}: {_ADVICE}'
        )
    if not jnp.issubdtype(jnp.result_type(grad), jnp.inexact):
        raise ValueError(
            f'gradient {leaf} is {jnp.result_type(grad).name}, and must be floating '
            'or complex'
        )
    if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(prev_grad):
        raise ValueError(
            f'gradient {leaf} is complex, but its leaf of the optimizer state is '
            f'{prev_grad.dtype.name}: {_ADVICE}'
        )
