"""What both networks share: what they return, and dropout."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Output(NamedTuple):
    """What a network says to a batch of windows."""

    logits: jax.Array  # batch × length × vocabulary, float32
    carry: Any  # for the windows that go on where these end
    penalty: jax.Array  # to be added to the mean loss in training: float32, scalar


def dropout(
    x: jax.Array,
    rate: float,
    key: jax.Array | None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Zeros for a random part of `x`, the rest scaled up to the same mean.

    Args:
      x: any array.
      rate: the part.
      key: None is no dropout, as in evaluation.
      shape: of the mask, which may be 1 where one number decides for a whole axis.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape if shape is None else shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)


def subkeys(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """`count` keys from one, or as many times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))
