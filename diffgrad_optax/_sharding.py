"""What the types of arrays say of how they are sharded."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding


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
