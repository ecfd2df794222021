"""Codes: numbers in 8 bits with one scale for each block, companded.

The equations are those of :func:`quantize_state`. What is jitted here is traced once
for all arrays of a shape.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffgrad_optax._quantize.dither import keep_clear

# How many numbers a row of a block has: two vectors of 16 or four of 8.
_LANES = 32
# Bits of infinity and of NaN, as integers.
_INFINITY = np.float32(np.inf).view(np.int32)
_NAN = np.float32(np.nan).view(np.int32)
# Added to a small whole number, it leaves that in the low bits of float32.
_SHIFT = 1.5 * 2.0**23


@jax.jit
def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32 numbers whose codes these are."""
    s = codes.astype(jnp.float32) / np.iinfo(codes.dtype).max
    s = jnp.square(s * s) if codes.dtype == jnp.uint8 else s * jnp.abs(s)
    return s * _spread(scale, codes.shape)


@partial(jax.jit, static_argnames=('block', 'dtype'))
def block_scales(x: jax.Array, block: int, dtype: Any) -> jax.Array:
    """The scale of each block of `x`; NaN if a number has no code of `dtype`."""
    # Without signs bits have the order of their numbers, and those of NaN come last.
    # XLA:CPU finds the largest of integers by vectors, if they lie in rows of as many;
    # it compares floats one by one, and in large arrays overlooks NaN.
    bits = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    # A code times infinity would be infinite, and a step by its root silently 0.
    fits = bits < _INFINITY
    if dtype == jnp.uint8:
        fits &= x >= 0
    bits = jnp.where(fits, bits, _NAN)
    lanes = math.gcd(block, _LANES)
    rows = bits.reshape(*x.shape[:-1], -1, block // lanes, lanes)
    return lax.bitcast_convert_type(jnp.max(rows, axis=(-2, -1)), jnp.float32)


@partial(jax.jit, static_argnames='dtype')
def encode(x: jax.Array, scale: jax.Array, r: jax.Array, dtype: Any) -> jax.Array:
    """Codes of `x`, rounded by the thresholds `r`.

    All is shaped like `x`, the scales too, so that XLA:GPU can make it one kernel with
    what makes `x`.
    """
    x = x.astype(jnp.float32)
    # One division for each block. 4 / scale is a normal number for the largest scale
    # too, where 1 / scale is not. Without the floor zeros in a block of zeros would be
    # multiplied by infinity.
    inverse = 4 / jnp.maximum(scale, 2 * np.finfo(np.float32).tiny)
    # `x` is computed anew after its scale was, and may be rounded to a little more.
    size = jnp.minimum(0.25 * (jnp.abs(x) * _spread(inverse, x.shape)), 1)
    top = np.iinfo(dtype).max
    if dtype == jnp.uint8:
        y = top * jnp.sqrt(jnp.sqrt(size))
        c = _whole(jnp.floor(y + (1 - keep_clear(r, y))))
        c = jnp.where(x > 0, jnp.maximum(c, 1), c)
    else:
        square = top**2 * size
        root = jnp.floor(jnp.sqrt(square))
        # How far it is from the square of the code to that of the next.
        up = square - root * root >= keep_clear(r, root) * (2 * root + 1)
        c = _whole(root)
        c = jnp.where(up, c + 1, c)
        c = jnp.where(x < 0, -c, c)
    return c.astype(dtype)


def _whole(x: jax.Array) -> jax.Array:
    """Small whole numbers as int32; a conversion would ask each whether it fits.

    For arithmetic of integers. Where the low byte of a float's bits is stored as it is,
    ptxas of CUDA 12.9 stores the float converted to a byte instead: 255.
    """
    bits = lax.bitcast_convert_type(x + _SHIFT, jnp.int32)
    return bits - np.float32(_SHIFT).view(np.int32)


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Each block's scale for all of its numbers."""
    block = shape[-1] // scale.shape[-1]
    return jnp.broadcast_to(scale[..., None], (*scale.shape, block)).reshape(shape)
