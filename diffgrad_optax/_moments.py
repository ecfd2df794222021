"""What exponential averages that start at zero have seen so far."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def bias_correction(
    decay: jax.typing.ArrayLike, count: jax.Array, dtype: np.dtype[Any]
) -> jax.Array:
    """1 - decay^count, by which an average of `count` values is divided.

    By logarithms, because the difference itself loses four digits in float32 where
    decay is near 1, and not the same ones in every compilation.
    """
    return -jnp.expm1(count.astype(dtype) * jnp.log(jnp.asarray(decay, dtype)))
