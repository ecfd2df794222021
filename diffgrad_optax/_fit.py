"""Refusals of gradients and states that do not fit, each in one line."""

from collections.abc import Iterable
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


def check_fields(name: str, given: Iterable[str], fields: Iterable[Any]) -> None:
    """Refuses, with a ValueError, names of fields that a state does not have."""
    if unknown := sorted(set(given) - set(fields)):
        known = ', '.join(sorted(field for field in fields if isinstance(field, str)))
        raise ValueError(
            f'{name} names {unknown[0]!r}, but the state of inner has only the fields '
            f'{known}'
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
    unknown = [path for path in placed if path not in leaf_at]
    if len(of_scales) != len(of_state) or unknown:
        what = (
            f'it has no {jax.tree_util.keystr(unknown[0])}'
            if unknown
            else f'they have {len(of_scales)} leaves, and it has {len(of_state)}'
        )
        raise ValueError(
            f'scales do not fit the inner_state: {what}: take both from one '
            'QuantizedState'
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
        trees = treedef.unflatten(range(treedef.num_leaves)), inner_state
        old, new = (
            {path for path, _ in jax.tree.leaves_with_path(tree)} for tree in trees
        )
        what = '{2} instead of {1} at {0}'.format(*first_difference(*trees))
        if old != new:
            path = min(jax.tree_util.keystr(path) for path in old ^ new)
            what = f'{path} is in one of them only'
        raise ValueError(
            f'inner has another tree after its update than init made: {what}. Put '
            'what changes its tree, as optax.monitor does, outside: '
            'optax.chain(optax.monitor(...), quantize_state(...))'
        ) from error
    return leaves
