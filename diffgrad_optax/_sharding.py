"""State that lies where its parameters lie."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def following_params(
    init: Callable[[optax.Params], optax.OptState],
) -> Callable[[optax.Params], optax.OptState]:
    """`init`, whose arrays shaped like a parameter are sharded like it under jit too.

    Outside jit, zeros made like an array lie where it lies. Under jit they are
    constants, and with automatic axes a compiler is free to put those on one device.
    """

    def init_fn(params: optax.Params) -> optax.OptState:
        params_at = dict(jax.tree_util.tree_leaves_with_path(params))

        def follow(path: Any, leaf: Any) -> Any:
            _, param = split(path, params_at)
            if (
                isinstance(param, jax.core.Tracer)
                and isinstance(leaf, jax.Array)
                and leaf.shape == param.shape
                and jnp.issubdtype(leaf.dtype, jnp.number)
            ):
                leaf = leaf + false_like(param).astype(leaf.dtype)
            return leaf

        return jax.tree_util.tree_map_with_path(follow, init(params))

    return init_fn


def false_like(array: jax.Array) -> jax.Array:
    """False everywhere, computed from `array` and so sharded like it."""
    return (array == array) & (array != array)


def split(path: Any, params_at: dict[Any, Any]) -> tuple[Any, Any]:
    """`path` in a state without the path in its parameter, and the parameter.

    A path that ends with no parameter's is whole, and its parameter None.
    """
    for start in range(len(path) + 1):
        if path[start:] in params_at:
            return path[:start], params_at[path[start:]]
    return path, None
