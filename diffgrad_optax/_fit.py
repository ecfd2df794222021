"""Refusals of gradients and states that do not fit, each in one line."""

from typing import Any

import jax
import jax.numpy as jnp

_ADVICE = 'call init with the parameters that these gradients belong to'


def as_arrays(tree: Any, what: str = 'gradient') -> Any:
    """`tree` with its NumPy arrays and Python numbers as JAX arrays.

    Raises:
      TypeError: naming `what`, the leaf and its type, if JAX takes a leaf for no array.
    """

    def as_array(path: Any, leaf: Any) -> jax.Array:
        try:
            # `jnp.asarray` alone would copy tensors of other libraries, or fail.
            jax.typeof(leaf)
            return jnp.asarray(leaf)
        except (OverflowError, TypeError, ValueError) as error:
            kind = f'{type(leaf).__module__}.{type(leaf).__qualname__}'
            raise TypeError(
                f'{what} {jax.tree_util.keystr(path)} is a '
                f'{kind.removeprefix("builtins.")}, and must be an array or a number '
                'that JAX takes: convert it with jnp.asarray(...)'
            ) from error

    return jax.tree.map_with_path(as_array, tree)


def check_state(state: Any, expected: Any) -> None:
    """Refuses the state of another transformation.

    Any class with the fields of `expected` passes: what a checkpoint is read into need
    not be the class that was written.

    Args:
      state: what `update` was given.
      expected: the NamedTuple that `init` makes.

    Raises:
      TypeError: naming both types.
    """
    fields = expected._fields
    # A NamedTuple with more fields is another optimizer's.
    if getattr(state, '_fields', fields) != fields or not all(
        hasattr(state, field) for field in fields
    ):
        raise TypeError(
            f'the optimizer state is a {type(state).__name__}, and must be a '
            f'{expected.__name__} ({", ".join(fields)}), as init returns it'
        )


def fitting_gradients(grads: Any, stored: Any) -> Any:
    """`grads` as arrays, if they fit what the state stores for each parameter.

    Raises:
      TypeError: as `as_arrays`.
      ValueError: naming the first place where the trees differ, or as
        `check_same_array`.
    """
    grads = as_arrays(grads)
    if not same_tree(grads, stored):
        where, ours, theirs = first_difference(grads, stored)
        raise ValueError(
            f'gradients have {ours} at {where}, where the optimizer state has '
            f'{theirs}: {_ADVICE}'
        )
    jax.tree.map_with_path(check_same_array, grads, stored)
    return grads


def first_difference(a: Any, b: Any, path: Any = ()) -> tuple[str, str, str]:
    """Where two trees that are not the same begin to differ, and the types there."""
    children_a, children_b = (
        dict(jax.tree.leaves_with_path(tree, is_leaf=lambda x, t=tree: x is not t))
        for tree in (a, b)
    )
    kind_a, kind_b = _kind(a), _kind(b)
    if type(a) is type(b):
        kind_b = f'another {kind_b}'
        for key in children_a | children_b:
            if key not in children_a or key not in children_b:
                kind_a, kind_b = (
                    _kind(below[key]) if key in below else 'nothing'
                    for below in (children_a, children_b)
                )
                path += key
                break
            if not same_tree(children_a[key], children_b[key]):
                return first_difference(children_a[key], children_b[key], path + key)
    return jax.tree_util.keystr(path) or 'the root', kind_a, kind_b


def _kind(tree: Any) -> str:
    leaf = jax.tree_util.all_leaves([tree])
    return 'an array' if leaf else type(tree).__name__


def same_tree(a: Any, b: Any) -> bool:
    """Whether the containers of two trees are the same, whatever their leaves are."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (a, b)]
    return bool(structures[0] == structures[1])


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
