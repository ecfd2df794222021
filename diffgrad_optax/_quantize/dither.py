"""Rounding thresholds: a number in (0, 1) for each place of an array and each step.

A code is rounded up where the fraction of the way to the next code reaches the
threshold. Each place starts from a hash of its own, and moves by the golden ratio at
every step, so that over the steps its thresholds lie evenly in (0, 1).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffgrad_optax._xla import hidden_constants

# 2^32 divided by the golden ratio: multiples of it, modulo 2^32, lie evenly.
_GOLDEN = np.uint32(0x9E3779B9)
# Odd numbers that mix bits, from the finalizers of MurmurHash3 and lowbias32.
_MIXERS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B), np.uint32(0x85EBCA6B))
# Thresholds keep this part of a code away from it: rounding errors of float32 come to a
# quarter of that, or to a half where division and root are approximate.
_CLEARANCE = 2.0**-20


def parameter_hashes(
    like: dict[int, jax.Array], count: jax.Array
) -> dict[int, jax.Array]:
    """A hash of each parameter's places, by its number; `like` has an array of each."""
    seeds = tuple(number * int(_MIXERS[2]) % 2**32 for number in like)
    hashes = map(hash_places, like.values(), hidden_constants(seeds, count))
    return dict(zip(like, hashes, strict=True))


def hash_places(like: jax.Array, seed: jax.typing.ArrayLike) -> jax.Array:
    """32 bits for each place of a parameter, shaped and sharded like `like`.

    Neighbors have unlike bits, so that they do not round in step.
    """
    axes = range(like.ndim)
    places = [lax.broadcasted_iota(jnp.uint32, like.shape, axis) for axis in axes]
    # All places are added before the seed, for a compiler: see _xla.
    h = sum(places, jnp.full_like(like, 0, dtype=jnp.uint32)) ^ seed
    for place in places:
        h = h * _MIXERS[1] + place
    h = (h ^ (h >> 16)) * _MIXERS[0]
    return h ^ (h >> 15)


@partial(jax.jit, static_argnames='field')
def thresholds(hashes: jax.Array, field: int, count: jax.typing.ArrayLike) -> jax.Array:
    """The thresholds of step `count` for one field of the state, float32 in (0, 1)."""
    factor = np.uint32(pow(int(_MIXERS[1]), field + 1, 2**32))
    turn = jnp.asarray(count).astype(jnp.uint32) * _GOLDEN
    h = hashes * factor + turn
    # The first 22 bits of h and a 1 behind them (moments change by small parts of a
    # code) are the mantissa of a float in (1, 2).
    bits = (h >> 9) | np.float32(1 + 2.0**-23).view(np.uint32)
    return lax.bitcast_convert_type(bits, jnp.float32) - 1


def keep_clear(r: jax.Array, code: jax.Array) -> jax.Array:
    """Thresholds that no rounding error reaches, so that what is a code stays one."""
    return r + (0.5 - r) * (2 * _CLEARANCE * code)
