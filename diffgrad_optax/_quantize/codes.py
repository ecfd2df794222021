"""Codes: numbers in 8 bits with one scale for each block, companded.

The equations are those of :func:`quantize_state`. What is jitted here is traced once
for all arrays of a shape.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffgrad_optax._quantize.dither import keep_clear
from diffgrad_optax._xla import largest_of_blocks, small_integers


@jax.jit
def decode(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """The float32 numbers whose codes these are."""
    s = codes.astype(jnp.float32) / np.iinfo(codes.dtype).max
    s = jnp.square(s * s) if codes.dtype == jnp.uint8 else s * jnp.abs(s)
    return s * _spread(scale, codes.shape)


@partial(jax.jit, static_argnames=('block', 'dtype'))
def block_scales(x: jax.Array, block: int, dtype: Any) -> jax.Array:
    """The scale of each block of `x`; NaN if an element has no code of `dtype`."""
    size = jnp.abs(x.astype(jnp.float32))
    # A code times infinity would be infinite, and a step by its root silently 0.
    fits = size < jnp.inf
    if dtype == jnp.uint8:
        fits &= x >= 0
    return largest_of_blocks(size, fits, block)


@partial(jax.jit, static_argnames='dtype')
def encode(x: jax.Array, scale: jax.Array, r: jax.Array, dtype: Any) -> jax.Array:
    """Codes of `x`, rounded by the thresholds `r`.

    All is shaped like `x`, the scales too, so that it can be one kernel with what makes
    `x`.
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
        c = small_integers(jnp.floor(y + (1 - keep_clear(r, y))))
        c = jnp.where(x > 0, jnp.maximum(c, 1), c)
    else:
        square = top**2 * size
        root = jnp.floor(jnp.sqrt(square))
        # How far it is from the square of the code to that of the next.
        up = square - root * root >= keep_clear(r, root) * (2 * root + 1)
        c = small_integers(root)
        c = jnp.where(up, c + 1, c)
        c = jnp.where(x < 0, -c, c)
    return c.astype(dtype)


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Each block's scale for all of its numbers."""
    block = shape[-1] // scale.shape[-1]
    return jnp.broadcast_to(scale[..., None], (*scale.shape, block)).reshape(shape)
