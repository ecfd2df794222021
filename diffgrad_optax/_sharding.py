"""State that lies where its parameters lie."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding

from diffgrad_optax._paths import split_paths


def following_params(
    init: Callable[[optax.Params], optax.OptState],
) -> Callable[[optax.Params], optax.OptState]:
    """`init`, whose arrays shaped like a parameter are sharded like it under jit too.

    Outside jit, zeros made like an array lie where it lies. Under jit they are
    constants, and with automatic axes a compiler is free to put those on one device.
    (Where a parameter is in host memory, `init` still makes its zeros in device memory;
    those are left where they are.)
    """

    def init_fn(params: optax.Params) -> optax.OptState:
        params_at = dict(jax.tree.leaves_with_path(params))
        false_at = functools.cache(lambda path: false_like(params_at[path]))

        def follow(leaf: Any, path: Any) -> Any:
            param = params_at.get(path)
            if (
                isinstance(param, jax.core.Tracer)
                and isinstance(leaf, jax.Array)
                and leaf.shape == param.shape
                and jax.typeof(leaf).memory_space == jax.typeof(param).memory_space
                and jnp.issubdtype(leaf.dtype, jnp.number)
            ):
                false = lax.convert_element_type(false_at(path), leaf.dtype)
                leaf = lax.add(leaf, false)
            return leaf

        state = init(params)
        treedef: Any
        leaves, treedef = jax.tree.flatten(state)
        paths = [path for _, path in split_paths(state, params)]
        return treedef.unflatten(map(follow, leaves, paths))

    return init_fn


def false_like(array: jax.Array) -> jax.Array:
    """False everywhere, computed from `array` and, if it is inexact, sharded like it.

    It is x < x, which is false for NaN too. XLA sees that for integers only, and makes
    a constant of it, which need not be sharded like `array`.
    """
    real = jnp.real(array)
    return lax.lt(real, real)


def placed_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """`array` sharded like `other`, where the type of `other` says that it is split.

    Types say so of explicit axes only; of others `array` is returned as it is.
    """
    found, wanted = jax.typeof(array).sharding, jax.typeof(other).sharding
    if any(wanted.spec) and wanted.mesh == found.mesh and wanted != found:
        array = jax.sharding.reshard(array, wanted)  # type: ignore[no-untyped-call]
    return array


def zero_for(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A scalar zero of `dtype`, for a number that is computed from all of `tree`.

    Inside `jax.shard_map` its type says so: that it may differ between devices.
    """
    traced = [
        leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer)
    ]
    zeros = [jnp.zeros_like(leaf, dtype, shape=()) for leaf in traced]
    return functools.reduce(lax.add, zeros, jnp.zeros((), dtype))


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
