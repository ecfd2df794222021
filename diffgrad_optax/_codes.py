"""Numbers in 8 bits with one scale for each block, companded, their rounding fair.

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

# 2^32 divided by the golden ratio: multiples of it, modulo 2^32, lie evenly.
_GOLDEN = np.uint32(0x9E3779B9)
# Odd numbers that mix bits, from the finalizers of MurmurHash3 and lowbias32.
_MIXERS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B), np.uint32(0x85EBCA6B))
# Rounding thresholds have so many bits. Moments change by small parts of a code.
_THRESHOLD_BITS = 22
# Thresholds keep this part of a code away from it: rounding errors of float32 come to a
# quarter of that, or to a half where division and root are approximate.
_CLEARANCE = 2.0**-20
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
def largest(x: jax.Array, block: int, dtype: Any) -> jax.Array:
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
        c = _whole(jnp.floor(y + (1 - _clear(r, y))))
        c = jnp.where(x > 0, jnp.maximum(c, 1), c)
    else:
        square = top**2 * size
        root = jnp.floor(jnp.sqrt(square))
        # How far it is from the square of the code to that of the next.
        up = square - root * root >= _clear(r, root) * (2 * root + 1)
        c = _whole(root)
        c = jnp.where(up, c + 1, c)
        c = jnp.where(x < 0, -c, c)
    return c.astype(dtype)


def hashes(x: jax.Array, number: int) -> jax.Array:
    """32 bits for each place of `x`, which is parameter `number`; sharded like `x`.

    A place's thresholds start from them, scattered so that neighbours do not round in
    step.
    """
    places = [lax.broadcasted_iota(jnp.uint32, x.shape, axis) for axis in range(x.ndim)]
    # All places are added first, then the number: XLA would compute what has one axis
    # apart, or what parameters of one shape have in common, and join the updates of all
    # that read it. Behind a barrier the number is no part of a kernel, and XLA:GPU
    # compiles one for all parameters of a shape.
    h = sum(places, jnp.full_like(x, 0, dtype=jnp.uint32))
    own = np.uint32(number * int(_MIXERS[2]) % 2**32)
    hidden: jax.Array = lax.optimization_barrier(own)  # type: ignore[no-untyped-call]
    h = h ^ hidden
    for place in places:
        h = h * _MIXERS[1] + place
    h = (h ^ (h >> 16)) * _MIXERS[0]
    return h ^ (h >> 15)


@partial(jax.jit, static_argnames='field')
def thresholds(hashes: jax.Array, field: int, count: jax.typing.ArrayLike) -> jax.Array:
    """Numbers in (0, 1) that turn with `count`, for one of the fields of a state."""
    factor = np.uint32(pow(int(_MIXERS[1]), field + 1, 2**32))
    turn = jnp.asarray(count).astype(jnp.uint32) * _GOLDEN
    h = (hashes * factor + turn) >> (32 - _THRESHOLD_BITS)
    # (h + 1/2) / 2^22, as the float 1 + (h + 1/2) / 2^22 made of its bits, less 1.
    one = np.float32(1 + 0.5 ** (_THRESHOLD_BITS + 1)).view(np.uint32)
    bits = (h << (23 - _THRESHOLD_BITS)) | one
    return lax.bitcast_convert_type(bits, jnp.float32) - 1


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


def _clear(r: jax.Array, code: jax.Array) -> jax.Array:
    """Thresholds that no rounding error reaches, so that what is a code stays one."""
    return r + (0.5 - r) * (2 * _CLEARANCE * code)
