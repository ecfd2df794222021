"""Numbers in 8 bits with one scale for each block, companded, their rounding fair.

The equations are those of :func:`quantize_state`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# 2^32 divided by the golden ratio: multiples of it, modulo 2^32, lie evenly.
_GOLDEN = np.uint32(0x9E3779B9)
# Odd numbers that mix bits, from the finalizers of MurmurHash3 and lowbias32.
_MIXERS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B), np.uint32(0x85EBCA6B))
# Rounding thresholds have so many bits. More would let the rounding errors of float32
# move a number that is a code already; fewer would lose the small changes of moments.
_THRESHOLD_BITS = 11


def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32 numbers whose codes these are."""
    s = codes.astype(jnp.float32) / np.iinfo(codes.dtype).max
    s = s * jnp.abs(s)
    if codes.dtype == jnp.uint8:
        s = s * s
    return s * _spread(scale, codes.shape)


def largest(x: jax.Array, block: int, dtype: Any) -> jax.Array:
    """The scale of each block of `x`; NaN if a number has no code of `dtype`."""
    size = jnp.abs(x.astype(jnp.float32))
    if dtype == jnp.uint8:
        size = jnp.where(x >= 0, size, jnp.nan)
    return jnp.max(size.reshape(*x.shape[:-1], -1, block), axis=-1)


def encode(
    x: jax.Array, scale: jax.Array, dtype: Any, index: int, count: jax.typing.ArrayLike
) -> jax.Array:
    """Codes of `x`, leaf number `index` of a state, at step `count`.

    All is shaped like `x`, the scales too, so that XLA:GPU can make it one kernel with
    what makes `x`.
    """
    x = x.astype(jnp.float32)
    # All zeros have the code 0, those in blocks of scale 0 too. More than 1 is what was
    # rounded otherwise when the scale was computed.
    size = jnp.where(x == 0, x, jnp.abs(x) / _spread(scale, x.shape))
    root = jnp.sqrt(jnp.minimum(size, 1))
    r = _thresholds(x, index, count)
    if dtype == jnp.uint8:
        c = jnp.floor(np.iinfo(dtype).max * jnp.sqrt(root) + r)
        c = jnp.where(x > 0, jnp.maximum(c, 1), c)
    else:
        y = np.iinfo(dtype).max * root
        c = jnp.floor(y)
        # How far y² is from c² to the square of the next code.
        c = c + jnp.floor((y - c) * (y + c) / (2 * c + 1) + r)
        c = jnp.copysign(c, x)
    return c.astype(dtype)


def _thresholds(x: jax.Array, index: int, count: jax.typing.ArrayLike) -> jax.Array:
    """Numbers in (0, 1), shaped and sharded like `x`, that turn with `count`."""
    places = [lax.broadcasted_iota(jnp.uint32, x.shape, axis) for axis in range(x.ndim)]
    # A hash of the place, so that neighbours do not start side by side. All places are
    # added first, then the index: XLA would compute what has one axis apart, or what
    # arrays of one shape have in common, and join the updates of all that read it.
    h = sum(places, jnp.full_like(x, 0, dtype=jnp.uint32))
    h = h ^ np.uint32(index * int(_MIXERS[2]) % 2**32)
    for place in places:
        h = h * _MIXERS[1] + place
    for shift, factor in zip((16, 15), _MIXERS[:2], strict=True):
        h = (h ^ (h >> shift)) * factor
    turn = jnp.asarray(count).astype(jnp.uint32) * _GOLDEN
    h = ((h ^ (h >> 16)) + turn) >> (32 - _THRESHOLD_BITS)
    return (h.astype(jnp.float32) + 0.5) * 2.0**-_THRESHOLD_BITS


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Each block's scale for all of its numbers."""
    block = shape[-1] // scale.shape[-1]
    return jnp.broadcast_to(scale[..., None], (*scale.shape, block)).reshape(shape)
