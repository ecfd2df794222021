"""State that lies where its parameters lie."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding


def following_params(
    init: Callable[[optax.Params], optax.OptState],
) -> Callable[[optax.Params], optax.OptState]:
    """`init`, whose arrays shaped like a parameter are sharded like it under jit too.

    Outside jit, zeros made like an array lie where it lies. Under jit they are
    constants, and with automatic axes a compiler is free to put those on one device.
    """

    def init_fn(params: optax.Params) -> optax.OptState:
        params_at = dict(jax.tree_util.tree_leaves_with_path(params))
        false_at = functools.cache(lambda path: false_like(params_at[path]))

        def follow(path: Any, leaf: Any) -> Any:
            prefix, param = split(path, params_at)
            if (
                isinstance(param, jax.core.Tracer)
                and isinstance(leaf, jax.Array)
                and leaf.shape == param.shape
                and jnp.issubdtype(leaf.dtype, jnp.number)
            ):
                false = false_at(path[len(prefix) :])
                leaf = lax.add(leaf, lax.convert_element_type(false, leaf.dtype))
            return leaf

        return jax.tree_util.tree_map_with_path(follow, init(params))

    return init_fn


def false_like(array: jax.Array) -> jax.Array:
    """False everywhere, computed from `array` and, if it is inexact, sharded like it.

    No number is less than itself, and NaN neither. XLA uses that of integers alone.
    """
    real = jnp.real(array)
    return lax.lt(real, real)


def device_shape(array: Any) -> tuple[int, ...]:
    """The shape of what one device holds of `array`, as far as that is known.

    It is known of concrete arrays, and of traced ones along explicit and manual axes.
    """
    shape: tuple[int, ...] = array.shape
    if not isinstance(array, jax.core.Tracer):
        sharding = getattr(array, 'sharding', None)
        return sharding.shard_shape(shape) if sharding else shape
    # `shard_shape` refuses manual axes, along which a shape is that of a device.
    sharding = jax.typeof(array).sharding
    mesh = AbstractMesh(sharding.mesh.axis_sizes, sharding.mesh.axis_names)
    return NamedSharding(mesh, sharding.spec).shard_shape(shape)


def split(path: Any, params_at: dict[Any, Any]) -> tuple[Any, Any]:
    """`path` in a state without the path in its parameter, and the parameter.

    A path that ends with no parameter's is whole, and its parameter None.
    """
    for start in range(len(path) + 1):
        if path[start:] in params_at:
            return path[:start], params_at[path[start:]]
    return path, None
