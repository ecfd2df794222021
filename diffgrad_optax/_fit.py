"""Refusals of gradients and new state that do not fit the state that there is."""

from typing import Any

import jax
import jax.numpy as jnp

_ADVICE = 'call init with the parameters that these gradients belong to'


def fitting_gradients(grads: Any, stored: Any) -> Any:
    """`grads` as arrays, if they fit what the state stores for each parameter.

    NumPy arrays and Python numbers are gradients too.

    Raises:
      ValueError: if a leaf is missing on one side, or as `check_same_array`.
    """
    grads_at = dict(jax.tree.leaves_with_path(grads))
    stored_at = dict(jax.tree.leaves_with_path(stored))
    for path, grad in grads_at.items():
        if path not in stored_at:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f'the optimizer state has no leaf for gradient {leaf}: {_ADVICE}'
            )
        check_same_array(path, grad, stored_at[path])
    for path in stored_at:
        if path not in grads_at:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f'no gradient came for leaf {leaf} of the optimizer state: {_ADVICE}'
            )
    treedef: Any = jax.tree.structure(grads)
    expected: Any = jax.tree.structure(stored)
    if treedef != expected:
        raise ValueError(
            f'gradients are {treedef}, but the optimizer state holds {expected}: '
            f'{_ADVICE}'
        )
    return jax.tree.map(jnp.asarray, grads)


def check_same_array(path: Any, grad: Any, stored: jax.Array) -> None:
    """Refuses one gradient that does not fit its leaf of the state.

    Raises:
      ValueError: if it has another shape, is neither floating nor complex, or is
        complex where the state is real.
    """
    leaf = jax.tree_util.keystr(path)
    if jnp.shape(grad) != stored.shape:
        raise ValueError(
            f'gradient {leaf} has shape {jnp.shape(grad)}, but its leaf of the '
            f'optimizer state has {stored.shape}: {_ADVICE}'
        )
    if not jnp.issubdtype(jnp.result_type(grad), jnp.inexact):
        raise ValueError(
            f'gradient {leaf} is {jnp.result_type(grad).name}, and must be floating '
            'or complex'
        )
    if jnp.iscomplexobj(grad) and not jnp.iscomplexobj(stored):
        raise ValueError(
            f'gradient {leaf} is complex, but its leaf of the optimizer state is '
            f'{stored.dtype.name}: {_ADVICE}'
        )


def check_scales(scales: Any, inner_state: Any) -> None:
    """Refuses scales that are not those of this inner state.

    Raises:
      ValueError: if they are another number, None counted too, have a place that the
        inner state has not, or one where it has no codes.
    """
    of_scales, of_state = (
        jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: leaf is None)
        for tree in (scales, inner_state)
    )
    leaf_at = dict(of_state)
    placed = [path for path, scale in of_scales if scale is not None]
    known = all(path in leaf_at for path in placed)
    if len(of_scales) != len(of_state) or not known:
        raise ValueError(
            f'scales {jax.tree.structure(scales)} do not fit the inner_state '
            f'{jax.tree.structure(inner_state)}: take both from one QuantizedState'
        )
    for path in placed:
        if jnp.result_type(leaf_at[path]) not in (jnp.int8, jnp.uint8):
            raise ValueError(
                f'scales must be None at {jax.tree_util.keystr(path)}, where '
                'inner_state has no codes: optax.tree.set(state, '
                'lambda path, x: x is not None, ...) leaves them alone'
            )


def check_shape(path: Any, array: Any, stored: Any) -> None:
    """Refuses a new array of the state, from an inner transformation, of another shape.

    Raises:
      ValueError: naming the leaf and both shapes.
    """
    if array.shape != stored.shape:
        raise ValueError(
            f'inner has changed the shape of its state {jax.tree_util.keystr(path)} '
            f'from {stored.shape} to {array.shape}: {_ADVICE}'
        )


def leaves_of(inner_state: Any, treedef: Any) -> list[Any]:
    """The leaves of an inner transformation's new state, which must have this tree.

    Raises:
      ValueError: if it has another one, naming a leaf that came or went, if one did.
    """
    try:
        leaves: list[Any] = treedef.flatten_up_to(inner_state)
    except ValueError as error:
        old, new = (
            {path for path, _ in jax.tree.leaves_with_path(tree)}
            for tree in (treedef.unflatten(range(treedef.num_leaves)), inner_state)
        )
        paths = [jax.tree_util.keystr(path) for path in old ^ new]
        what = f'{min(paths)} is in one of them only' if paths else str(error)
        raise ValueError(
            f'inner has another tree after its update than init made: {what}. Put '
            'what changes its tree, as optax.monitor does, outside: '
            'optax.chain(optax.monitor(...), quantize_state(...))'
        ) from error
    return leaves
