"""Numbers in 8 bits with one scale for each block, companded, their rounding fair.

The equations are those of :func:`quantize_state`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# 2^32 divided by the golden ratio: multiples of it, modulo 2^32, lie evenly.
_GOLDEN = np.uint32(0x9E3779B9)
# Rounding thresholds have so many bits. More would let the rounding errors of float32
# move a number that is a code already; fewer would lose the small changes of moments.
_THRESHOLD_BITS = 11


def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32 numbers that `encode` stored."""
    top = np.iinfo(codes.dtype).max
    c = _blocks(codes, codes.shape[-1] // scale.shape[-1]).astype(jnp.float32)
    # In integers, so that the largest code is exactly 1.
    s = c / (2 * top - jnp.abs(c))
    if codes.dtype == jnp.uint8:
        s = s * s
    return (s * scale[..., None]).reshape(codes.shape)


def encode(
    x: jax.Array, block: int, dtype: Any, index: int, count: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Codes and scales of the array that is leaf number `index`, at step `count`."""
    shape = x.shape
    r = _blocks(_thresholds(x, index, count), block)
    x = _blocks(x.astype(jnp.float32), block)
    if dtype == jnp.uint8:
        x = jnp.where(x >= 0, x, jnp.nan)
    scale = jnp.max(jnp.abs(x), axis=-1)
    s = x / jnp.where(scale > 0, scale, 1)[..., None]
    if dtype == jnp.uint8:
        s = jnp.sqrt(s)
    top = np.iinfo(dtype).max
    c = jnp.floor(2 * top * s / (1 + jnp.abs(s)) + r)
    if dtype == jnp.uint8:
        c = jnp.where(x > 0, jnp.maximum(c, 1), c)
    return c.astype(dtype).reshape(shape), scale


def _thresholds(x: jax.Array, index: int, count: jax.typing.ArrayLike) -> jax.Array:
    """Numbers in (0, 1), shaped and sharded like `x`, that turn with `count`."""
    h = jnp.full_like(x, index * int(_GOLDEN) % 2**32, dtype=jnp.uint32)
    for axis, size in enumerate(x.shape):
        shape = [size if i == axis else 1 for i in range(x.ndim)]
        stride = np.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
        h = h + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    # A hash of the position, so that neighbours do not start side by side.
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ (h >> shift)) * np.uint32(factor)
    turn = jnp.asarray(count).astype(jnp.uint32) * _GOLDEN
    h = ((h ^ (h >> 16)) + turn) >> (32 - _THRESHOLD_BITS)
    return (h.astype(jnp.float32) + 0.5) * 2.0**-_THRESHOLD_BITS


def _blocks(x: jax.Array, block: int) -> jax.Array:
    return x.reshape((*x.shape[:-1], x.shape[-1] // block, block))
