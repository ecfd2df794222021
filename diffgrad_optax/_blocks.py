"""Blocks of neighbours in an array: which arrays have them, and of how many numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from diffgrad_optax._sharding import device_shape


def length(leaf: Any, param: Any, block_size: int, min_size: int) -> int | None:
    """How many neighbours of `leaf` share a scale; None if it stays exact."""
    shape: Any = getattr(leaf, 'shape', None)
    dtype: Any = getattr(leaf, 'dtype', None)
    if (
        not shape
        or shape != getattr(param, 'shape', None)
        or not jnp.issubdtype(dtype, jnp.floating)
        or jnp.dtype(dtype).itemsize not in (2, 4)
        or not isinstance(shape[-1], int)  # symbolic, in jax.export
        or math.prod(shape) < max(min_size, 1)
    ):
        return None
    block = math.gcd(shape[-1], block_size)
    return block if block >= min(16, block_size) else None


def check_devices(path: Any, param: Any, block: int, block_size: int) -> None:
    """Refuses blocks of the state at `path` that would lie on two devices."""
    size = device_shape(param)[-1]
    if size % block:
        raise ValueError(
            f'block_size={block_size} makes blocks of {block} numbers of '
            f'{jax.tree_util.keystr(path)}, but each device holds {size} along the '
            f'last of its axes {list(param.shape)}: give a block_size that divides '
            f'{size}, such as {math.gcd(size, block)}'
        )
